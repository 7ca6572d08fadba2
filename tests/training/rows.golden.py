"""Writes rows.golden.json: rows of data sets, and the text that transformers makes of what they say.

    $GRAFT_ORACLE_PYTHON tests/training/rows.golden.py
"""

import json
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

DEFAULT = """{{ bos_token }}{% if date is defined %}[{{ date }}]{% endif %}{% for m in messages -%}
<{{ m.role }}{% if 'name' in m %} {{ m.name }}{% endif %}>{{ m.content }}
{%- if m.tool_calls is defined %}{% for call in m.tool_calls %}({{ call.function.name }} {{ call.function.arguments | tojson }})
{%- if 'id' in call %}{{ call.id }}{% endif %}{% endfor %}{% endif -%}
</{{ unk_token }}>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"""
TOOL_USE = "tools:{{ tools | tojson }}{{ documents | tojson }}" + DEFAULT
TEMPLATES = {"default": DEFAULT, "tool_use": TOOL_USE, "short": "{% for m in messages %}{{ m.role }} {{ m.content }}!{% endfor %}{% if add_generation_prompt %}assistant {% endif %}"}

TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
USER = {"role": "user", "content": "1+1"}
ANSWER = {"role": "assistant", "content": "2"}
SYSTEM = {"role": "system", "content": "Be brief."}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": None}}}
CHAT = [USER, ANSWER]

# The row, what is given to transformers, and what is learned.
CASES = {
    "nulls": [
        {
            "messages": [{**USER, "name": None, "tool_calls": None}, {**ANSWER, "tool_calls": None}],
            "text": None,
            "tools": None,
            "chat_template_kwargs": None,
        },
        {"conversation": CHAT},
        ["2</<unk>>"],
    ],
    "tools": [
        {
            "messages": [USER, {"role": "assistant", "content": "", "tool_calls": [{**CALL, "id": None}]}, ANSWER],
            "tools": [TOOL],
        },
        {"conversation": [USER, {"role": "assistant", "content": "", "tool_calls": [CALL]}, ANSWER], "tools": [TOOL]},
        ['(add {"a": 1, "b": null})</<unk>>', "2</<unk>>"],
    ],
    "tools as text": [
        {"messages": CHAT, "tools": json.dumps([TOOL]), "documents": [{"title": "a"}]},
        {"conversation": CHAT, "tools": [TOOL], "documents": [{"title": "a"}]},
        ["2</<unk>>"],
    ],
    "kwargs": [
        {"messages": CHAT, "chat_template_kwargs": {"date": "today", "bos_token": "BOS", "other": None}},
        {"conversation": CHAT, "date": "today", "bos_token": "BOS"},
        ["2</<unk>>"],
    ],
    "named template": [
        {"messages": CHAT, "tools": [TOOL], "chat_template_kwargs": {"chat_template": "short"}},
        {"conversation": CHAT, "tools": [TOOL], "chat_template": "short"},
        ["2!"],
    ],
    "parts": [
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "1+"}, {"type": "text", "text": "1"}]},
                {"role": "assistant", "content": [{"type": "text", "text": "2", "image": None}]},
            ]
        },
        {"conversation": CHAT},
        ["2</<unk>>"],
    ],
    "not learned": [
        {
            "messages": [
                USER,
                {**ANSWER, "weight": 0},
                USER,
                {**ANSWER, "weight": 1},
                USER,
                {**ANSWER, "train": False},
                USER,
                {**ANSWER, "train": True},
            ]
        },
        {"conversation": CHAT * 4},
        ["2</<unk>>", "2</<unk>>"],
    ],
    "lists for prompt and completion": [
        {"prompt": [SYSTEM, USER, ANSWER, USER], "completion": [{"role": "assistant", "content": "two"}]},
        {"conversation": [SYSTEM, USER, ANSWER, USER, {"role": "assistant", "content": "two"}]},
        ["two</<unk>>"],
    ],
    "ShareGPT": [
        {
            "system": "Be brief.",
            "conversations": [
                {"from": "human", "value": "1+1"},
                {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1}}'},
                {"from": "observation", "value": "2"},
                {"from": "gpt", "value": "2"},
            ],
        },
        {
            "conversation": [
                SYSTEM,
                USER,
                {
                    "role": "assistant",
                    "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}],
                },
                {"role": "tool", "content": "2"},
                ANSWER,
            ]
        },
        ['(add {"a": 1})</<unk>>', "2</<unk>>"],
    ],
    "Alpaca": [
        {"instruction": "Add.", "input": "1+1", "output": "2", "system": "Be brief.", "history": [["1+1", "2"]]},
        {"conversation": [SYSTEM, *CHAT, {"role": "user", "content": "Add.\n1+1"}, ANSWER]},
        ["2</<unk>>", "2</<unk>>"],
    ],
    "Alpaca without input": [
        {"instruction": "1+1", "input": "", "output": "2"},
        {"conversation": CHAT},
        ["2</<unk>>"],
    ],
}

fast = PreTrainedTokenizerFast(
    tokenizer_object=Tokenizer(models.BPE()), bos_token="<bos>", eos_token="<eos>", unk_token="<unk>"
)
fast.chat_template = TEMPLATES
result = {
    "templates": TEMPLATES,
    "cases": {
        name: {"row": row, "text": fast.apply_chat_template(**call, tokenize=False), "learned": learned}
        for name, (row, call, learned) in CASES.items()
    },
}
path = Path(__file__).parent / "rows.golden.json"
path.write_text(json.dumps(result, ensure_ascii=False, indent=1) + "\n")
