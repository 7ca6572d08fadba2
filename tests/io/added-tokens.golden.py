"""Writes added-tokens.golden.json: files of tokenizers, and what transformers reads from them.

    $GRAFT_ORACLE_PYTHON tests/io/added-tokens.golden.py
"""

import json
import tempfile
from pathlib import Path

from transformers import AutoTokenizer

VOCAB = {c: i for i, c in enumerate("abcdefgh<>|")} | {"▁": 11, "<s>": 12, "</s>": 13, "ab": 14}


def tokenizer_json(added):
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True} | token
            for token in added
        ],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Fuse"},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": VOCAB,
            "merges": [["a", "b"]],
        },
    }


def token(content, **flags):
    return {"content": content, "lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": False} | flags


FAST = {"tokenizer_class": "PreTrainedTokenizerFast"}
CASES = {
    "named in the config only": [
        [{"id": 12, "content": "<s>"}],
        {"tokenizer_config.json": {**FAST, "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<PAD>"}},
    ],
    "listed in the config": [
        [],
        {
            "tokenizer_config.json": {
                **FAST,
                "eos_token": "<end>",
                "added_tokens_decoder": {
                    "16": token("<tool>", normalized=True),
                    "15": token("<end>"),
                    "30": token("<Far>", special=True, lstrip=True),
                    "14": token("ab", single_word=True),
                },
            }
        },
    ],
    "other flags than in tokenizer.json": [
        [{"id": 15, "content": "<x>", "special": False}, {"id": 16, "content": "<y>"}],
        {
            "tokenizer_config.json": {
                **FAST,
                "added_tokens_decoder": {"15": token("<x>", special=True), "16": token("<y>", special=True), "17": token("<z>")},
            }
        },
    ],
    "added_tokens.json": [
        [{"id": 15, "content": "<x>"}],
        {
            "tokenizer_config.json": {**FAST, "eos_token": "</s>"},
            "special_tokens_map.json": {"eos_token": "<end>", "pad_token": token("<pad>", lstrip=True)},
            "added_tokens.json": {"<End>": 17, "<end>": 16},
        },
    ],
    "added_tokens.json beside a list": [
        [],
        {
            "tokenizer_config.json": {**FAST, "added_tokens_decoder": {"15": token("<x>")}, "eos_token": "</s>"},
            "special_tokens_map.json": {"eos_token": "<end>"},
            "added_tokens.json": {"<never>": 16},
        },
    ],
    "others that are special": [
        [],
        {"tokenizer_config.json": {**FAST, "additional_special_tokens": ["<a>", {"__type": "AddedToken", **token("<b>", rstrip=True)}], "image_token": "<img>"}},
    ],
    "a dictionary of others": [
        [],
        {"tokenizer_config.json": {**FAST, "extra_special_tokens": {"audio_token": "<au>", "image_token": "<img>"}}},
    ],
    "after those of tokenizer.json": [
        [{"id": 15, "content": "<x>"}, {"id": 16, "content": "<y>"}],
        {"tokenizer_config.json": {**FAST, "pad_token": "<pad>", "eos_token": "<end>"}},
    ],
}
TEXTS = [
    "ab <end> a<s>b</s>c",
    "<tool>a<TOOL>b <Far>c<far>",
    "<x>a<y>b <z>",
    "a <pad>b<PAD><End> <a>c <b> d<img><au>",
    "abab ab",
]


def golden(added, files):
    data = tokenizer_json(added)
    with tempfile.TemporaryDirectory() as folder:
        for name, content in {**files, "tokenizer.json": data}.items():
            Path(folder, name).write_text(json.dumps(content))
        fast = AutoTokenizer.from_pretrained(folder)
    return {
        "tokenizer": data,
        "files": files,
        "ids": [fast(text, add_special_tokens=False)["input_ids"] for text in TEXTS],
        "special": sorted(set(fast.all_special_ids)),
        "named": [fast.bos_token_id, fast.eos_token_id, fast.pad_token_id],
        "added": {str(id): token.content for id, token in sorted(fast.added_tokens_decoder.items())},
    }


result = {"texts": TEXTS, "cases": {name: golden(*case) for name, case in CASES.items()}}
path = Path(__file__).parent / "added-tokens.golden.json"
path.write_text(json.dumps(result, ensure_ascii=False, separators=(",", ":")) + "\n")
