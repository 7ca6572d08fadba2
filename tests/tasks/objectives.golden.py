"""Writes objectives.golden.json: losses of transformers' tasks and their gradients.

    $GRAFT_ORACLE_PYTHON tests/tasks/objectives.golden.py
"""

import json
from pathlib import Path
from types import SimpleNamespace

import torch
import transformers
from transformers.loss import loss_utils

GENERATOR = torch.Generator().manual_seed(5)


def scores(*shape):
    return (3 * torch.randn(shape, generator=GENERATOR)).requires_grad_()


def case(name, task, config, batch, logits, loss):
    loss.backward()
    return {
        "name": name,
        "task": task,
        "config": config,
        "batch": {n: t.tolist() for n, t in batch.items()},
        "outputs": {
            n: {"shape": list(t.shape), "values": t.flatten().tolist(),
                "gradient": t.grad.flatten().tolist()}
            for n, t in logits.items()
        },
        "loss": loss.item(),
    }


def texts(name, labels, classes, problem=None):
    config = {"num_labels": classes, **({"problem_type": problem} if problem else {})}
    logits = scores(len(labels), classes)
    loss = loss_utils.ForSequenceClassificationLoss(
        labels, logits, SimpleNamespace(num_labels=classes, problem_type=problem)
    )
    return case(name, "SEQ_CLS", config, {"labels": labels}, {"logits": logits}, loss)


def tokens():
    labels = torch.tensor([[0, 2, -100, 1], [2, -100, -100, 0]])
    logits = scores(2, 4, 3)
    loss = loss_utils.ForTokenClassification(logits, labels, SimpleNamespace(num_labels=3))
    return case("tokens", "TOKEN_CLS", {"num_labels": 3}, {"labels": labels}, {"logits": logits}, loss)


def answers(name="answers", ends=(2, 9, 3)):
    start, end = torch.tensor([1, 4, 0]), torch.tensor(ends)
    first, last = scores(3, 4), scores(3, 4)
    loss = loss_utils.ForQuestionAnsweringLoss(first, last, start, end)
    return case(
        name, "QUESTION_ANS", {}, {"startPositions": start, "endPositions": end},
        {"startLogits": first, "endLogits": last}, loss,
    )


def next_tokens():
    labels = torch.tensor([[5, -100, 2, 1], [0, 3, -100, -100]])
    logits = scores(2, 4, 6)
    loss = loss_utils.ForCausalLMLoss(logits, labels, vocab_size=6)
    return case("next tokens", "CAUSAL_LM", {}, {"labels": labels}, {"logits": logits}, loss)


def written_tokens():
    labels = torch.tensor([[5, 2, 1, -100], [3, 1, -100, -100]])
    logits = scores(2, 4, 6)
    loss = torch.nn.functional.cross_entropy(logits.view(-1, 6), labels.view(-1))
    config = {"decoder_start_token_id": 4, "pad_token_id": 0}
    tiny = transformers.T5Config(
        vocab_size=6, d_model=4, d_kv=2, d_ff=4, num_layers=1, num_heads=2, **config
    )
    made = case("written tokens", "SEQ_2_SEQ_LM", config, {"labels": labels}, {"logits": logits}, loss)
    shifted = transformers.T5ForConditionalGeneration(tiny)._shift_right(labels)
    return {**made, "decoderInputIds": shifted.tolist()}


contents = {
    "torch": torch.__version__,
    "transformers": transformers.__version__,
    "cases": [
        texts("classes", torch.tensor([2, 0, 1]), 3),
        texts("two classes", torch.tensor([1, 0]), 2, "single_label_classification"),
        texts("labels", torch.tensor([[1.0, 0, 1], [0, 0, 1]]), 3),
        texts("numbers", torch.tensor([0.5, -2.25, 3]), 1),
        texts("pairs of numbers", torch.tensor([[0.5, -1], [2, 0.25]]), 2, "regression"),
        tokens(),
        answers(),
        answers("an answer of which the end alone is outside", (5, 9, 3)),
        next_tokens(),
        written_tokens(),
    ],
}
Path(__file__).with_suffix(".json").write_text(json.dumps(contents) + "\n")
