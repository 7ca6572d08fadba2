"""Writes task-rows.golden.json: tokens and labels of rows of data, by transformers' fast tokenizers
(those of tokenizers.golden.json, with post-processors of encode-inputs.golden.json), and the same
rows as Parquet files, as Hugging Face's datasets write them.

    $GRAFT_ORACLE_PYTHON tests/training/task-rows.golden.py    (needs pyarrow)
"""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

HERE = Path(__file__).parent
IO = HERE.parent / "io"
KINDS = json.loads((IO / "tokenizers.golden.json").read_text())["kinds"]
FAMILIES = json.loads((IO / "encode-inputs.golden.json").read_text())["families"]
IGNORED = -100

TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
WORDS = [
    {"tokens": ["Hello", "naïve", "café", "you", "6789"], "ner_tags": [0, 1, 2, 0, 3]},
    {"tokens": ["The", "", "question's", "answer"], "ner_tags": [3, 0, 4, 1]},
]
CONTEXT = "Hello there, how are you today? The answer is 42. 🙂 Let me think about the question again."
QUESTIONS = [
    {"id": "a", "question": "  how are you", "context": CONTEXT, "answers": {"text": ["42", "is 42"], "answer_start": [46, 43]}},
    {"id": "b", "question": "why", "context": CONTEXT, "answers": {"text": ["think about"], "answer_start": [59]}},
    {"id": "c", "question": "who", "context": "The answer is you.", "answers": {"text": [], "answer_start": []}},
    {"id": "d", "question": "who", "context": "The answer is you.", "answers": {"text": ["The answer"], "answer_start": [0]}},
]
PAIRS = [
    {"premise": "Hello there", "hypothesis": "how are you today?", "label": 1},
    {"premise": CONTEXT, "hypothesis": "I am fine", "label": 0},
]
TEXTS = [{"document": "Hello there, how are you?", "summary": "Hello you"}, {"document": CONTEXT, "summary": "I am fine"}]


def tokenizer(family):
    data = {**KINDS[family["kind"]]["tokenizer"], "post_processor": family["post_processor"]}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(data)), bos_token="<s>", eos_token="</s>",
        unk_token="<unk>", pad_token="</s>", cls_token="<s>",
    )


def tagged(fast, every):
    inside = [TAGS.index(t.replace("B-", "I-")) for t in TAGS]
    for row in WORDS:
        out = fast(row["tokens"], is_split_into_words=True)
        words, labels = out.word_ids(), []
        for i, word in enumerate(words):
            if word is None:
                labels.append(IGNORED)
            elif i == 0 or words[i - 1] != word:
                labels.append(row["ner_tags"][word])
            else:
                labels.append(inside[row["ner_tags"][word]] if every else IGNORED)
        yield {"ids": out["input_ids"], "labels": labels}


def answered(fast, **limits):
    for number, row in enumerate(QUESTIONS):
        out = fast(
            row["question"].lstrip(), row["context"], truncation="only_second", return_overflowing_tokens=True, **limits
        )
        for at, encoding in enumerate(out.encodings):
            none = encoding.ids.index(fast.cls_token_id) if fast.cls_token_id in encoding.ids else 0
            span = [none, none]
            if row["answers"]["text"]:
                start = row["answers"]["answer_start"][0]
                end = start + len(row["answers"]["text"][0])
                own = [(i, *o) for i, (o, s) in enumerate(zip(encoding.offsets, encoding.sequence_ids)) if s == 1]
                if own[0][1] <= start and own[-1][2] >= end:
                    span = [max(i for i, a, _ in own if a <= start), min(i for i, _, b in own if b >= end)]
            yield {"row": number, "ids": encoding.ids, "labels": span}


def family(name, data):
    fast = tokenizer(data)
    length = {"max_length": 40, "stride": 5}
    return {
        "kind": data["kind"],
        "post_processor": data["post_processor"],
        "words": list(tagged(fast, False)),
        "allPieces": list(tagged(fast, True)),
        "answers": list(answered(fast, **length)),
        "pairs": [
            {"ids": fast(r["premise"], r["hypothesis"], truncation=True, max_length=40)["input_ids"], "labels": [r["label"]]}
            for r in PAIRS
        ],
        "texts": [
            {
                "ids": fast("tell: " + r["document"])["input_ids"],
                "labels": fast(text_target=r["summary"])["input_ids"],
            }
            for r in TEXTS
        ],
    }


def write(name, rows, features, **options):
    table = pa.Table.from_pylist(rows).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, HERE / "data" / name, **options)


value = {"dtype": "string", "_type": "Value"}
classes = {"names": TAGS, "_type": "ClassLabel"}
(HERE / "data").mkdir(exist_ok=True)
write("words.parquet", WORDS, {"tokens": {"feature": value, "_type": "List"}, "ner_tags": {"feature": classes, "_type": "List"}})
write("questions.parquet", QUESTIONS, {}, compression="zstd")
write("pairs.parquet", PAIRS, {"label": {"names": ["no", "yes"], "_type": "ClassLabel"}}, compression="gzip")
write("texts.parquet", TEXTS, {}, compression="none")
names = ["bert", "roberta", "xlm-roberta", "llama 3"]
result = {
    "tags": TAGS, "rows": {"words": WORDS, "questions": QUESTIONS, "pairs": PAIRS, "texts": TEXTS},
    "families": {name: family(name, FAMILIES[name]) for name in [*names, "t5"]},
}
(HERE / "task-rows.golden.json").write_text(json.dumps(result, ensure_ascii=False, separators=(",", ":")) + "\n")
