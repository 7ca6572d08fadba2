"""Writes tokenizers.golden.json: tiny tokenizers of each kind, and what transformers makes of texts
and chats with them.

    $GRAFT_ORACLE_PYTHON tests/io/tokenizers.golden.py
"""

import base64
import json
import sys
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).parent))
from chat_families import CHATML, GENERATION, VICUNA  # noqa: E402

CORPUS = [
    "Hello there, how are you today? I am fine, thank you.",
    "The answer is 42. Let me think about the question again.",
    "def add(a, b):\n    return a + b\n",
    "It's a test: don't worry, we'll see. Überraschung! naïve café",
    "user assistant system hello world hello world 12 345 6789",
] * 3
SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
TEXTS = [
    "Hello there, how are you?",
    " two  spaces   and\ttabs\n\n  lines \n",
    "naïve café Überraschung ① ﬁ e\u0301 👋🏽 日本",
    "It's 42 and 6789.",
    "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\nThe answer",
    "<s> Hello</s> world <unk>x",
    "",
    "   ",
    "a<mask>b <mask> c tool tools  tool\n",
    "ẞ İ ﷽ \u200b\ufeff \x07 x",
    "\u1112\u1161\u11ab ABC",
    "e\u0301tool \ufeff tool\r\n\ufeffx ...\ufeff",
    "ΑΣ ΣΑ Σ",
]
# Each says nothing that a space begins or ends, as transformers loses such answers.
CHATS = [
    [
        {"role": "user", "content": "Hello there"},
        {"role": "assistant", "content": "The answer is 42."},
        {"role": "user", "content": "  again?\n"},
        {"role": "assistant", "content": "don't worry:\n    return a + b"},
    ],
    [
        {"role": "system", "content": "user naïve 👋"},
        {"role": "user", "content": ""},
        {"role": "assistant", "content": "café <s> 日本 x"},
    ],
]
# Here what is learned begins and ends inside of words.
INSIDE = """{%- for m in messages -%}
{%- if m.role == 'assistant' -%}answer:{% generation %}{{ m.content }}{% endgeneration %}end
{%- else -%}{{ m.role ~ m.content }}{%- endif -%}
{%- endfor -%}"""
TEMPLATES = {"generation": GENERATION, "inside": INSIDE, "chatml": CHATML, "vicuna": VICUNA}
PAIRS = [["Hello there,", " how are you?"], ["The answer is", " 42.\n"], ["user", " naïve 👋"]]


def trained(model, trainer, **parts):
    tokenizer = Tokenizer(model)
    for name, part in parts.items():
        if part is not None:
            setattr(tokenizer, name, part)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens([
        AddedToken("<mask>", lstrip=True, special=True, normalized=False),
        AddedToken("tool", single_word=True, rstrip=True, normalized=True),
    ])
    return tokenizer


def bpe(size=330, special=SPECIAL, **options):
    return trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, show_progress=False, **options
    )


BYTES = [f"<0x{b:02X}>" for b in range(256)]
SPLIT = Regex(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def with_bytes(tokenizer):
    """A SentencePiece vocabulary: the trained pieces, and all bytes."""
    data = json.loads(tokenizer.to_str())
    vocab = data["model"]["vocab"]
    for token in BYTES:
        vocab.setdefault(token, len(vocab) + 2)
    data["model"]["byte_fallback"] = True
    return Tokenizer.from_str(json.dumps(data))


def wrapped(tokenizer):
    return processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", tokenizer.token_to_id("<s>")), ("</s>", tokenizer.token_to_id("</s>"))]
    )


def kinds():
    byte_trainer = bpe(initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    yield "byte_level", trained(
        models.BPE(),
        byte_trainer,
        normalizer=normalizers.NFC(),
        pre_tokenizer=pre_tokenizers.Sequence([
            pre_tokenizers.Split(SPLIT, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]),
        post_processor=processors.ByteLevel(trim_offsets=False),
        decoder=decoders.ByteLevel(),
    )
    gpt2 = trained(
        models.BPE(),
        byte_trainer,
        pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=True),
        decoder=decoders.ByteLevel(),
    )
    gpt2.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), wrapped(gpt2)])
    yield "byte_level_trimmed", gpt2
    legacy = with_bytes(trained(
        models.BPE(unk_token="<unk>", fuse_unk=True),
        bpe(200),
        normalizer=normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
        decoder=decoders.Sequence([
            decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)
        ]),
    ))
    legacy.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", legacy.token_to_id("<s>"))]
    )
    yield "sentencepiece_bpe", legacy
    yield "sentencepiece_bpe_first", trained(
        models.BPE(unk_token="<unk>", fuse_unk=True),
        bpe(200),
        pre_tokenizer=pre_tokenizers.Metaspace(prepend_scheme="first", split=False),
        decoder=decoders.Metaspace(prepend_scheme="first", split=False),
    )
    unigram = trained(
        models.Unigram(),
        trainers.UnigramTrainer(vocab_size=160, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False),
        normalizer=normalizers.Sequence([
            normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " "), normalizers.Strip(False, True)
        ]),
        pre_tokenizer=pre_tokenizers.Metaspace(),
        decoder=decoders.Metaspace(),
    )
    yield "unigram_words", trained(
        models.Unigram(),
        trainers.UnigramTrainer(vocab_size=160, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False),
        normalizer=normalizers.Lowercase(),
        pre_tokenizer=pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]),
        decoder=decoders.Metaspace(),
    )
    unigram.post_processor = wrapped(unigram)
    yield "unigram", unigram
    yield "unigram_precompiled", trained(
        models.Unigram(),
        trainers.UnigramTrainer(vocab_size=160, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False),
        normalizer=normalizers.Sequence([
            normalizers.Precompiled(CHARSMAP), normalizers.Strip(False, True), normalizers.Replace(Regex(" {2,}"), "▁")
        ]),
        pre_tokenizer=pre_tokenizers.Metaspace(),
        decoder=decoders.Metaspace(),
    )
    wordpiece = trained(
        models.WordPiece(unk_token="<unk>"),
        trainers.WordPieceTrainer(vocab_size=200, special_tokens=SPECIAL, show_progress=False),
        normalizer=normalizers.BertNormalizer(lowercase=True),
        pre_tokenizer=pre_tokenizers.BertPreTokenizer(),
        decoder=decoders.WordPiece(),
    )
    wordpiece.post_processor = wrapped(wordpiece)
    yield "wordpiece", wordpiece
    yield "merged_with_next", trained(
        models.BPE(unk_token="<unk>"),
        bpe(120),
        normalizer=normalizers.Sequence([normalizers.Lowercase(), normalizers.StripAccents()]),
        pre_tokenizer=pre_tokenizers.Sequence([
            pre_tokenizers.Split(Regex(r"\s"), "merged_with_next"), pre_tokenizers.Digits(individual_digits=True)
        ]),
    )


# Made by SentencePiece 0.2.3 from a few rules (normalization_rule_tsv): ① 1, ﬁ fi, white space a space,
# U+200B and U+FEFF nothing, ẞ SS, ﷽ bis mi, e with an accent é, jamo a syllable, … three dots, Σ S,
# İ I, an accent alone nothing, a waving hand hi.
CHARSMAP = base64.b64decode(
    "AAQAAAAgAAAJCQAACgUAAAEAAIDMDAIADRkAAIEFAAAdAACAsAUAAAkAAICBBQAAAAAAgKMFAAALAACAhEwCAJL4AwDhEAIA"
    "hYgCAKGAAwDhBAIAhqgCAKsNAAAkAACAnj0AAA0AAIADAACAi0UAAKAdAAAHAACAgQ0AABcAAIC9+QAAgMQCABAAAICs+AIA"
    "IAAAgL+9AACfTAIAsRUAAJEQAgCLBQAAGgAAgCsAAAAqAAAALQAAACwAAAAvAAAALgAAALrkAgCRKAIAMwAAAL2QAgA1AAAA"
    "u7gCADcAAACmuQAAOQAAALdsAgA7AAAAOgAAAD0AAAA8AAAAPwAAAD4AAABBAAAAQAAAAEMAAABCAAAARQAAAEQAAABHAAAA"
    "RgAAAEkAAABIAAAASwAAAEoAAABNAAAATAAAAE8AAABOAAAAUQAAAFAAAABTAAAAUgAAAFUAAABUAAAAVwAAAFYAAABZAAAA"
    "WAAAAFsAAABaAAAAXQAAAFwAAABfAAAAXgAAAGEAAABgAAAAYwAAAGIAAABlAAAAZAAAAGcAAABmAAAAaQAAAGgAAABrAAAA"
    "agAAAG0AAABllAIAbwAAAG4AAABxAAAAcAAAAHMAAAByAAAAdQAAAHQAAAB3AAAAdgAAAHkAAAB4AAAAewAAAHoAAAB9AAAA"
    "fAAAAH8AAAB+AAAAgQAAAIAAAACDAAAAggAAAIUAAACEAAAAhwAAAIYAAACJAAAAiAAAAIsAAACKAAAAjQAAAIwAAACPAAAA"
    "jgAAAJEAAACQAAAAkwAAAJIAAACVAAAAlAAAAJcAAACWAAAAmQAAAJgAAACbAAAAmgAAAJ0AAACcAAAAnwAAAJ4AAAChAAAA"
    "oAAAAKMAAACiAAAApQAAAKQAAACnAAAApgAAAKkAAACoAAAAqwAAAKoAAACtAAAArAAAAK8AAACuAAAAsQAAALAAAACzAAAA"
    "sgAAALUAAAC0AAAAtwAAALYAAAC5AAAAuAAAALsAAAC6AAAAvQAAALwAAAC/AAAAvgAAAMEAAADAAAAAwwAAAMIAAADMPAEA"
    "xAAAAM6kAQDGAAAAyQAAAMgAAADLAAAAygAAAMTQAQDMAAAAzwAAAM4AAADRAAAA0AAAANMAAADSAAAA1QAAANQAAADXAAAA"
    "1gAAANkAAADYAAAA2wAAANoAAADdAAAA3AAAAN8AAADeAAAA4QAAAOAAAADjAAAA4gAAAOUAAADkAAAA5wAAAO+kAQDpAAAA"
    "4YwBAOIoAQDqAAAA7QAAAOwAAADvAAAA7gAAAPEAAADwAAAA8wAAAPIAAAD1AAAA9AAAAPcAAAD2AAAA8AgBAPgAAAD7AAAA"
    "+gAAAP0AAAD8AAAA/wAAAP4AAAAAIAAuLi4AMQBJAFMAU1MAYmlzIG1pAGZpAGhpAMOpAOOCogDtlZwA"
)


def golden(tokenizer):
    data = json.loads(tokenizer.to_str())
    # Read from a file, as what is loaded there may differ from what was trained.
    fast = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tokenizer.to_str()), bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    texts = []
    for text in TEXTS:
        out = fast(text, add_special_tokens=False, return_offsets_mapping=True)
        texts.append({
            "ids": out["input_ids"],
            "offsets": sum(map(list, out["offset_mapping"]), []),
            "wrapped": fast(text)["input_ids"],
        })
    chats = {
        name: [
            [out["input_ids"], "".join(map(str, out["assistant_masks"]))]
            for chat in CHATS
            for out in [
                fast.apply_chat_template(
                    chat, chat_template=template, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
                )
            ]
        ]
        for name, template in TEMPLATES.items()
    }
    prompts = {
        name: [
            fast.apply_chat_template(
                chat[:-1], chat_template=template, tokenize=True, return_dict=False, add_generation_prompt=True
            )
            for chat in CHATS
        ]
        for name, template in TEMPLATES.items()
    }
    pairs = [fast(prompt + completion)["input_ids"] for prompt, completion in PAIRS]
    return {"tokenizer": data, "texts": texts, "chats": chats, "prompts": prompts, "pairs": pairs}


result = {
    "texts": TEXTS,
    "chats": CHATS,
    "templates": TEMPLATES,
    "pairs": PAIRS,
    "kinds": {name: golden(tokenizer) for name, tokenizer in kinds()},
}
path = Path(__file__).parent / "tokenizers.golden.json"
path.write_text(json.dumps(result, ensure_ascii=False, separators=(",", ":")) + "\n")
