"""Writes inference/: tiny models of each task with tokenizers and LoRAs, and what the pipelines of
transformers make of texts with them. `classify`, `tag` and `embed`:

    $GRAFT_ORACLE_PYTHON tests/golden/inference.py

Question answering has no pipeline in transformers 5. With a Python that has transformers 4.57 (and torch, peft), after that:

    python tests/golden/inference.py answers
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast, pipeline

HERE = Path(__file__).parent
OUT = HERE / "inference"
KINDS = json.loads((HERE.parent / "io" / "tokenizers.golden.json").read_text())["kinds"]
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>", "unk_token": "<unk>", "pad_token": "<|im_end|>"}
PAD = 4
TEXTS = [
    "Hello there, how are you?",
    "The answer is 42. Let me think about the question again. It's a test: don't worry, we'll see. Überraschung! naïve café",
    "naïve café 👋 tool",
    "user assistant system hello world hello world 12 345 6789",
]
PAIRS = [{"text": "Hello there", "text_pair": "how are you today? I am fine"}, {"text": "It's 42", "text_pair": "don't"}]
WORDS = [["Hello", "there,", "Überraschung", "42"], ["It's", "naïve"]]
CONTEXT = (
    "Hello there, how are you today? I am fine, thank you. The answer is 42. Let me think about the question again. "
    "It's a test: don't worry, we'll see. Überraschung! A naïve café."
)
QUESTIONS = [
    {"question": "The answer?", "context": CONTEXT},
    {"question": "how are you", "context": "I am fine, thank you."},
    {"question": "Überraschung?", "context": CONTEXT[::-1]},
]
LABELS = {
    "SEQ_CLS": ["mail", "spam", "other"],
    "TOKEN_CLS": ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"],
    "QUESTION_ANS": ["LABEL_0", "LABEL_1"],
}
CLASSES = {
    "SEQ_CLS": "ForSequenceClassification", "TOKEN_CLS": "ForTokenClassification", "QUESTION_ANS": "ForQuestionAnswering",
    "FEATURE_EXTRACTION": "Model",
}
SIZES = {
    "Bert": dict(hidden_size=18, intermediate_size=28, num_hidden_layers=2, num_attention_heads=3, max_position_embeddings=140, type_vocab_size=2),
    "Roberta": dict(hidden_size=18, intermediate_size=28, num_hidden_layers=2, num_attention_heads=3, max_position_embeddings=142, type_vocab_size=1),
    "Llama": dict(hidden_size=18, intermediate_size=28, num_hidden_layers=2, num_attention_heads=3, head_dim=6, max_position_embeddings=140),
    "T5": dict(d_model=18, d_kv=6, d_ff=28, num_layers=2, num_heads=3),
}


def processor(kind, tokenizer):
    pair = {name: [token, tokenizer.token_to_id(token)] for name, token in (("cls", "<s>"), ("sep", "</s>"))}
    if kind == "wordpiece":
        return {"type": "BertProcessing", **pair}
    if kind == "byte_level_trimmed":
        return {"type": "RobertaProcessing", **pair, "trim_offsets": True, "add_prefix_space": True}
    return KINDS[kind]["tokenizer"]["post_processor"]


def make_tokenizer(kind):
    data = dict(KINDS[kind]["tokenizer"])
    data["post_processor"] = processor(kind, Tokenizer.from_str(json.dumps(data)))
    names = ["input_ids", "token_type_ids", "attention_mask"] if kind == "wordpiece" else ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(data)), model_max_length=128, model_input_names=names, **SPECIAL
    )


def shake(model, seed):
    """No weight is neutral, and no two alike."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        if parameter.requires_grad:
            spread = 0.5 if parameter.dim() > 1 else 0.1
            parameter.data += spread * torch.randn(parameter.shape, generator=generator)


def make(name, family, kind, task, seed, targets, **more):
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    tokenizer = make_tokenizer(kind)
    labels = LABELS.get(task, [])
    config = getattr(transformers, f"{family}Config")(
        vocab_size=len(tokenizer), pad_token_id=PAD, initializer_range=0.05,
        **({"decoder_start_token_id": PAD} if family == "T5" else {}),
        **({"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}} if labels else {}),
        **SIZES[family], **more,
    )
    torch.manual_seed(seed)
    model = getattr(transformers, family + CLASSES[task])(config).eval()
    shake(model, seed)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    lora = get_peft_model(
        transformers.AutoModel.from_pretrained(folder) if task == "FEATURE_EXTRACTION" else getattr(transformers, family + CLASSES[task]).from_pretrained(folder),
        LoraConfig(task_type=task, r=2, lora_alpha=6, target_modules=targets, init_lora_weights=False),
    )
    shake(lora, seed + 1)
    lora.save_pretrained(folder / "adapter")
    (folder / "adapter" / "README.md").unlink(missing_ok=True)


def load(name, adapted):
    """The model with or without its LoRA, merged in."""
    folder = OUT / name
    config = transformers.AutoConfig.from_pretrained(folder)
    model = getattr(transformers, config.architectures[0]).from_pretrained(folder).eval()
    if adapted:
        model = PeftModel.from_pretrained(model, folder / "adapter").merge_and_unload().eval()
    # Version 4 would take the space away that tokenizer.json says texts begin with.
    spaces = {"add_prefix_space": True} if transformers.__version__.startswith("4.") and "roberta" in name else {}
    return model, PreTrainedTokenizerFast.from_pretrained(folder, **spaces)


def plain(value):
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    value = value.item() if hasattr(value, "item") else value
    return round(value, 7) if isinstance(value, float) else value


CASES = []


def note(verb, name, adapted, options, given, results, **more):
    CASES.append({"verb": verb, "model": name, "adapted": adapted, "options": options, "given": given, "results": plain(results), **more})


def classes(name, adapted):
    model, tokenizer = load(name, adapted)
    for problem in [None, "multi_label_classification", "regression"] if adapted else [None]:
        model.config.problem_type = problem
        pipe = pipeline("text-classification", model=model, tokenizer=tokenizer)
        for given in (TEXTS, PAIRS):
            note("classify", name, adapted, {}, given, pipe(given, top_k=None), problem=problem)
    note("classify", name, adapted, {"topK": 2, "maxLength": 12}, TEXTS, pipe(TEXTS, top_k=2, truncation=True, max_length=12), problem=problem)


def tags(name, adapted):
    model, tokenizer = load(name, adapted)
    pipe = pipeline("token-classification", model=model, tokenizer=tokenizer)
    for aggregation in ["none", "simple", "first", "average", "max"]:
        results = pipe(TEXTS, aggregation_strategy=aggregation)
        note("tag", name, adapted, {"aggregation": aggregation}, TEXTS, results)
        if adapted:
            words = [pipe(one, aggregation_strategy=aggregation, is_split_into_words=True, ignore_labels=[]) for one in WORDS]
            words = [one[0] if isinstance(one[0], list) else one for one in words]
            note("tag", name, adapted, {"aggregation": aggregation, "ignoreLabels": []}, WORDS, words)
    tokenizer.model_max_length = 30
    pipe = pipeline("token-classification", model=model, tokenizer=tokenizer)
    windows = [pipe(text, aggregation_strategy="simple", stride=5) for text in TEXTS]
    note("tag", name, adapted, {"aggregation": "simple", "stride": 5, "maxLength": 30}, TEXTS, windows)


def vectors(name, adapted, kinds):
    """What sentence-transformers computes: pooled under the mask, then what modules.json names."""
    model, tokenizer = load(name, adapted)
    for pooling, normalize in kinds:
        rows = []
        for text in TEXTS:
            inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=40)
            inputs = {key: value for key, value in inputs.items() if key != "token_type_ids" or "Bert" in type(model).__name__}
            with torch.no_grad():
                if model.config.is_encoder_decoder:
                    inputs = {key: inputs[key] for key in ("input_ids", "attention_mask")}
                    h = model.encoder(**inputs).last_hidden_state[0]
                else:
                    h = model(**inputs).last_hidden_state[0]
                row = {"mean": h.mean(0), "cls": h[0], "last": h[-1], "max": h.max(0).values}[pooling or DEFAULT_POOLING[name]]
                if pooling is None and name in DENSE:
                    weight, bias = DENSE[name]
                    row = torch.tanh(weight @ row + bias)
                if normalize:
                    row = torch.nn.functional.normalize(row, dim=0)
            rows.append(row.tolist())
        options = {"pooling": pooling, "normalize": normalize} if pooling else {}
        note("embed", name, adapted, {"maxLength": 40, **options}, TEXTS, rows)


DEFAULT_POOLING = {"bert_embed": "mean", "t5_embed": "cls"}
DENSE = {"t5_embed": (torch.linspace(-1, 1, 5 * 18).sin().view(5, 18), torch.linspace(0.5, -0.25, 5))}


def modules(name, kinds):
    """The files of sentence-transformers in a model's folder."""
    from safetensors.torch import save_file

    folder = OUT / name
    listed = []
    for i, (kind, config) in enumerate(kinds):
        path = "" if i == 0 else f"{i}_{kind}"
        listed.append({"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"})
        if config is not None:
            (folder / path).mkdir(exist_ok=True)
            (folder / path / "config.json").write_text(json.dumps(config))
        if kind == "Dense":
            weight, bias = DENSE[name]
            save_file({"linear.weight": weight.contiguous(), "linear.bias": bias}, folder / path / "model.safetensors")
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 40, "do_lower_case": False}))


def main():
    make("bert_classes", "Bert", "wordpiece", "SEQ_CLS", 1, ["query", "value"])
    make("llama_classes", "Llama", "sentencepiece_bpe", "SEQ_CLS", 2, ["q_proj", "v_proj"])
    make("bert_tags", "Bert", "wordpiece", "TOKEN_CLS", 3, ["query", "value"])
    make("roberta_tags", "Roberta", "byte_level_trimmed", "TOKEN_CLS", 4, ["query", "value"])
    make("bert_answers", "Bert", "wordpiece", "QUESTION_ANS", 5, ["query", "value"])
    make("roberta_answers", "Roberta", "byte_level_trimmed", "QUESTION_ANS", 6, ["query", "value"])
    make("bert_embed", "Bert", "wordpiece", "FEATURE_EXTRACTION", 7, ["query", "value"])
    make("t5_embed", "T5", "unigram", "FEATURE_EXTRACTION", 8, ["q", "v"])
    modules("bert_embed", [("Transformer", None), ("Pooling", {"word_embedding_dimension": 18, "pooling_mode_mean_tokens": True}), ("Normalize", None)])
    modules("t5_embed", [
        ("Transformer", None), ("Pooling", {"word_embedding_dimension": 18, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}),
        ("Dense", {"in_features": 18, "out_features": 5, "bias": True, "activation_function": "torch.nn.modules.activation.Tanh"}),
    ])
    for adapted in (False, True):
        for name in ("bert_classes", "llama_classes"):
            classes(name, adapted)
        for name in ("bert_tags", "roberta_tags"):
            tags(name, adapted)
        vectors("bert_embed", adapted, [(None, True), ("cls", False), ("last", True), ("max", False)])
        vectors("t5_embed", adapted, [(None, False), ("mean", True)])
    write("cases")


def answers():
    for name in ("bert_answers", "roberta_answers"):
        for adapted in (False, True):
            model, tokenizer = load(name, adapted)
            pipe = pipeline("question-answering", model=model, tokenizer=tokenizer)
            for own, options in [
                ({"topK": 3}, {"top_k": 3}),
                ({"topK": 4, "maxLength": 64, "stride": 10}, {"top_k": 4, "max_seq_len": 64, "doc_stride": 10}),
                ({"topK": 3, "alignToWords": False, "maxAnswerLength": 4}, {"top_k": 3, "align_to_words": False, "max_answer_len": 4}),
                ({"topK": 5, "handleImpossibleAnswer": True}, {"top_k": 5, "handle_impossible_answer": True}),
            ]:
                results = [pipe(**one, **options) for one in QUESTIONS]
                note("answer", name, adapted, own, QUESTIONS, [one if isinstance(one, list) else [one] for one in results])
    write("answers")


def write(name):
    contents = {"transformers": transformers.__version__, "cases": CASES}
    (OUT / f"{name}.json").write_text(json.dumps(contents, ensure_ascii=False, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    answers() if "answers" in sys.argv else main()
