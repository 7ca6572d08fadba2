"""Writes metrics.golden.json: what scikit-learn, SciPy, seqeval, transformers' squad_metrics,
rouge_score and sacrebleu make of predictions.

    $GRAFT_ORACLE_PYTHON tests/tasks/metrics.golden.py
    (needs scikit-learn scipy seqeval rouge_score sacrebleu, beside transformers)
"""

import json
import random
from pathlib import Path

import sacrebleu
from rouge_score import rouge_scorer
from scipy.stats import pearsonr, spearmanr
from seqeval.metrics import f1_score as entity_f1
from seqeval.metrics import precision_score, recall_score
from sklearn.metrics import (
    accuracy_score,
    f1_score,
    matthews_corrcoef,
    mean_absolute_error,
    mean_squared_error,
)
from transformers.data.metrics import squad_metrics

draw = random.Random(7)


def classes(count, rows, spare=0):
    """Predictions, often right, of classes of which the last `spare` are in neither."""
    expected = [draw.randrange(count - spare) for _ in range(rows)]
    predicted = [e if draw.random() < 0.6 else draw.randrange(count - spare) for e in expected]
    return {"classes": count, "predicted": predicted, "expected": expected}


def class_case(case):
    p, e = case["predicted"], case["expected"]
    average = {"f1Macro": "macro", "f1Weighted": "weighted"}
    scores = {"accuracy": accuracy_score(e, p), "matthews": matthews_corrcoef(e, p)}
    scores |= {name: f1_score(e, p, average=how, zero_division=0) for name, how in average.items()}
    if case["classes"] == 2:
        scores["f1"] = f1_score(e, p, zero_division=0)
    return {**case, "scores": scores}


def set_case(labels, rows):
    expected = [[int(draw.random() < 0.4) for _ in range(labels)] for _ in range(rows)]
    predicted = [[x if draw.random() < 0.7 else 1 - x for x in row] for row in expected]
    for row in expected + predicted:
        row[-1] = 0  # a label that nobody has
    average = {"f1Micro": "micro", "f1Macro": "macro", "f1Weighted": "weighted"}
    scores = {"accuracy": accuracy_score(expected, predicted)}
    scores |= {n: f1_score(expected, predicted, average=a, zero_division=0) for n, a in average.items()}
    return {"predicted": predicted, "expected": expected, "scores": scores}


def number_case(rows, ties):
    expected = [round(draw.gauss(0, 2), 0 if ties else 3) for _ in range(rows)]
    predicted = [round(e * 0.7 + draw.gauss(1, 1), 0 if ties else 3) for e in expected]
    return {
        "predicted": predicted,
        "expected": expected,
        "scores": {
            "mse": mean_squared_error(expected, predicted),
            "mae": mean_absolute_error(expected, predicted),
            "pearson": pearsonr(expected, predicted).statistic,
            "spearman": spearmanr(expected, predicted).statistic,
        },
    }


TAGS = {
    "IOB": ["O", "B-PER", "I-PER", "B-ORG", "I-ORG"],
    "IOE": ["O", "I-PER", "E-PER", "I-LOC", "E-LOC"],
    "IOBES": ["O", "B-PER", "I-PER", "E-PER", "S-PER", "B-LOC", "I-LOC", "E-LOC", "S-LOC"],
    "bare": ["O", "B", "I", "B-first-name", "I-first-name"],
}


def tag_case(scheme):
    expected = [[draw.choice(TAGS[scheme]) for _ in range(draw.randrange(1, 9))] for _ in range(12)]
    predicted = [[t if draw.random() < 0.8 else draw.choice(TAGS[scheme]) for t in row] for row in expected]
    scores = {
        "precision": precision_score(expected, predicted, zero_division=0),
        "recall": recall_score(expected, predicted, zero_division=0),
        "f1": entity_f1(expected, predicted, zero_division=0),
    }
    return {"scheme": scheme, "predicted": predicted, "expected": expected, "scores": scores}


ANSWERS = [
    ("the Eiffel Tower", ["Eiffel Tower", "The tower of Eiffel"]),
    ("in 1889, at last", ["1889"]),
    ("", []),
    ("Gustave", []),
    ("", ["Paris"]),
    ("a", ["the"]),
    ("Hồ Chí Minh's café", ["Hồ Chí Minh", "café"]),
    ("ten ten men", ["ten men", "men"]),
]


class Example:
    def __init__(self, qas_id, answers):
        self.qas_id, self.answers = qas_id, [{"text": a} for a in answers]


def answer_case(pairs):
    examples = [Example(str(i), answers) for i, (_, answers) in enumerate(pairs)]
    result = squad_metrics.squad_evaluate(examples, {str(i): p for i, (p, _) in enumerate(pairs)})
    names = {
        "exact": "exactMatch",
        "f1": "f1",
        "HasAns_exact": "answeredExactMatch",
        "HasAns_f1": "answeredF1",
        "NoAns_exact": "unanswerable",
    }
    scores = {names[n]: v for n, v in result.items() if n in names}
    if all(answers for _, answers in pairs):
        scores = {n: v for n, v in scores.items() if n in ("exactMatch", "f1")}
    return {"pairs": pairs, "scores": scores}


TEXTS = [
    ("The quick brown fox jumped over it.", "The quick brown dog jumped over the fox."),
    ("It rained.\nWe stayed at home.\nThe cat slept.", "We stayed at home.\nThe cat slept, it rained all day."),
    ("a b a b c a", "b a c a b a"),
    ("", "Something was asked for."),
    ("...", "none"),
    ("The price is $1,234.56 (up 3.5%) &amp; rising-ish; 20-30 more!", "The price is $1,234.56 (up 3%) & rising; 20-30 more."),
    ("the the the the", "the cat"),
    ("\u00c9t\u00e9 na\u00efve caf\u00e9 2024", "\u00c9t\u00e9 caf\u00e9 2024"),
]


def rouge_case(pairs):
    kinds = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    scorer = rouge_scorer.RougeScorer(kinds, use_stemmer=False)
    each = [scorer.score(expected, predicted) for predicted, expected in pairs]
    return {"pairs": pairs, "scores": {k: sum(s[k].fmeasure for s in each) / len(each) for k in kinds}}


def bleu_case(pairs):
    score = sacrebleu.corpus_bleu([p for p, _ in pairs], [[e for _, e in pairs]]).score
    return {"pairs": pairs, "score": score}


same = {"classes": 3, "predicted": [1, 1, 1], "expected": [1, 1, 1]}
golden = {
    "classes": [class_case(c) for c in [classes(2, 31), classes(4, 40), classes(5, 25, 2), same]],
    "sets": [set_case(4, 20), set_case(2, 3)],
    "numbers": [number_case(17, False), number_case(23, True)],
    "tags": [tag_case(scheme) for scheme in TAGS for _ in range(3)],
    "answers": [answer_case(ANSWERS), answer_case([pair for pair in ANSWERS if pair[1]])],
    "rouge": [rouge_case(TEXTS), *(rouge_case([pair]) for pair in TEXTS)],
    "bleu": [bleu_case(TEXTS), *(bleu_case([pair]) for pair in TEXTS)],
}
path = Path(__file__).with_name("metrics.golden.json")
rows = [f"{json.dumps(k)}: [\n" + ",\n".join(json.dumps(c, ensure_ascii=False) for c in v) + "\n]" for k, v in golden.items()]
path.write_text("{\n" + ",\n".join(rows) + "\n}\n")
