"""Writes encode-inputs.golden.json: rows that transformers' fast tokenizers make of texts, pairs and
words. The tokenizers are those of tokenizers.golden.json, with post-processors of families.

    $GRAFT_ORACLE_PYTHON tests/io/encode-inputs.golden.py
"""

import json
from pathlib import Path

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

HERE = Path(__file__).parent
KINDS = json.loads((HERE / "tokenizers.golden.json").read_text())["kinds"]


def template(tokenizer, single, pair, **tokens):
    ids = {token: {"id": token, "ids": [tokenizer.token_to_id(token)], "tokens": [token]} for token in ("<s>", "</s>")}
    parts = {"A": ("Sequence", "A"), "B": ("Sequence", "B"), "<s>": ("SpecialToken", "<s>"), "</s>": ("SpecialToken", "</s>")}

    def pieces(text):
        for piece in text.split():
            name, _, kind = piece.partition(":")
            key, value = parts[name]
            yield {key: {"id": value, "type_id": int(kind or 0)}}

    return {"type": "TemplateProcessing", "single": list(pieces(single)), "pair": list(pieces(pair)), "special_tokens": ids}


def named(kind, tokenizer, **more):
    pair = {name: [token, tokenizer.token_to_id(token)] for name, token in (("cls", "<s>"), ("sep", "</s>"))}
    return {"type": kind, **pair, **more}


FAMILIES = {
    "bert": ("wordpiece", lambda t: named("BertProcessing", t)),
    "bert template": ("wordpiece", lambda t: template(t, "<s> A </s>", "<s> A </s> B:1 </s>:1")),
    "roberta": ("byte_level_trimmed", lambda t: named("RobertaProcessing", t, trim_offsets=True, add_prefix_space=True)),
    "xlm-roberta": ("unigram", lambda t: template(t, "<s> A </s>", "<s> A </s> </s> B </s>")),
    "t5": ("unigram_precompiled", lambda t: template(t, "A </s>", "A </s> B </s>")),
    "llama 3": (
        "byte_level",
        lambda t: {"type": "Sequence", "processors": [
            {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
            template(t, "<s> A", "<s> A <s>:1 B:1"),
        ]},
    ),
    "gpt2": ("byte_level_trimmed", lambda t: {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}),
    "bare": ("sentencepiece_bpe_first", lambda t: None),
}
LONG = "Hello there, how are you today? The answer is 42. Let me think about the question again."
ROWS = {
    "texts": ["Hello there, how are you?", "It's 42 and 6789.", "", "naïve café tool <s> x"],
    "pairs": [
        {"text": "Hello there", "pair": "how are you today? I am fine"},
        {"text": LONG, "pair": "don't worry"},
        {"text": "", "pair": "a b"},
    ],
    "words": [
        {"text": ["Hello", "there,", "how's"]},
        {"text": ["naïve", "", "café", "6789"], "pair": ["The", "answer"]},
    ],
    "long": [LONG],
    "short": ["Hello you"],
}
CASES = [
    ("texts", {}, {}),
    ("texts", {"addSpecialTokens": False}, {"add_special_tokens": False}),
    ("pairs", {}, {}),
    ("pairs", {"addSpecialTokens": False}, {"add_special_tokens": False}),
    ("words", {}, {}),
    ("long", {"maxLength": 9}, {"max_length": 9, "truncation": True}),
    ("long", {"maxLength": 9, "truncationSide": "left"}, {"max_length": 9, "truncation": True, "truncation_side": "left"}),
    ("pairs", {"maxLength": 12}, {"max_length": 12, "truncation": True}),
    ("words", {"maxLength": 8}, {"max_length": 8, "truncation": True}),
    ("long", {"maxLength": 12, "stride": 3}, {"max_length": 12, "truncation": True, "stride": 3, "return_overflowing_tokens": True}),
    (
        "long",
        {"maxLength": 12, "stride": 3, "truncationSide": "left"},
        {"max_length": 12, "truncation": True, "stride": 3, "return_overflowing_tokens": True, "truncation_side": "left"},
    ),
    ("short", {"maxLength": 32, "stride": 3}, {"max_length": 32, "truncation": True, "stride": 3, "return_overflowing_tokens": True}),
]
SIDES = {"only_first": [{"text": LONG, "pair": "Hello there"}], "only_second": [{"text": "how are you", "pair": LONG}]}
for side, rows in SIDES.items():
    ROWS[side] = rows
    CASES.append((side, {"maxLength": 40, "truncation": side}, {"max_length": 40, "truncation": side}))
    CASES.append((
        side,
        {"maxLength": 42, "truncation": side, "stride": 5},
        {"max_length": 42, "truncation": side, "stride": 5, "return_overflowing_tokens": True},
    ))


def rows_of(fast, trims, rows, side="right", **options):
    fast.truncation_side = side
    found = []
    for at, row in enumerate(rows):
        text, pair = (row, None) if isinstance(row, str) else (row["text"], row.get("pair"))
        out = fast(
            text, pair, is_split_into_words=isinstance(text, list), return_offsets_mapping=True,
            return_token_type_ids=True, **options,
        )
        # In later windows, texts have the types that they had before the template gave them others.
        types = dict(zip(out.encodings[0].sequence_ids, out.encodings[0].type_ids))
        for encoding in out.encodings:
            kinds = [old if text is None else types[text] for text, old in zip(encoding.sequence_ids, encoding.type_ids)]
            # The first token of what is cut on the left keeps its space, where others lose theirs.
            offsets = []
            for of, (start, end) in zip(encoding.sequence_ids, encoding.offsets):
                whole = text if of == 0 else pair
                keeps = trims and isinstance(whole, str) and whole[start : start + 1] == " "
                offsets.append([start + 1, max(end, start + 1)] if keeps else [start, end])
            found.append({
                "row": at, "inputIds": encoding.ids, "tokenTypeIds": kinds, "offsets": offsets,
                "wordIds": encoding.word_ids, "sequenceIds": encoding.sequence_ids,
            })
    return found


def family(kind, processor):
    data = dict(KINDS[kind]["tokenizer"])
    data["post_processor"] = processor(Tokenizer.from_str(json.dumps(data)))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(data)), bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        pad_token="</s>",
    )
    cases = []
    for rows, own, options in CASES:
        options = dict(options)
        side = options.pop("truncation_side", "right")
        cases.append({"rows": rows, "options": own, "encoded": rows_of(fast, '"trim_offsets": true' in json.dumps(data["post_processor"]), ROWS[rows], side, **options)})
    fast.truncation_side = "right"
    padded = {}
    for side in ("left", "right"):
        fast.padding_side = side
        out = fast(ROWS["texts"], padding=True, pad_to_multiple_of=8, return_token_type_ids=True)
        padded[side] = [out["input_ids"], out["attention_mask"], out["token_type_ids"]]
    return {"kind": kind, "post_processor": data["post_processor"], "cases": cases, "padded": padded}


result = {"rows": ROWS, "families": {name: family(*parts) for name, parts in FAMILIES.items()}}
(HERE / "encode-inputs.golden.json").write_text(json.dumps(result, ensure_ascii=False, separators=(",", ":")) + "\n")
