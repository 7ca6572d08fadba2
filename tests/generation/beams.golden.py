"""Writes beams.golden.json: what beam search in transformers finds with tiny models of tests/golden.

    $GRAFT_ORACLE_PYTHON tests/generation/beams.golden.py
"""

import json
from pathlib import Path

import torch
import transformers
from peft import PeftModel

HERE = Path(__file__).parent
BASE = HERE.parent / "golden" / "base"
PROMPTS = [[17, 44, 9, 9, 31, 6, 42], [40, 8, 23]]
NEW = 10
SETTINGS = [
    {"numBeams": 3},
    {"numBeams": 4, "numReturnSequences": 3, "lengthPenalty": 2.0},
    {"numBeams": 4, "numReturnSequences": 4, "lengthPenalty": -0.5},
    {"numBeams": 3, "numReturnSequences": 2, "lengthPenalty": 0.0, "earlyStopping": "never"},
    {"numBeams": 3, "numReturnSequences": 3, "earlyStopping": True},
    {"numBeams": 3, "lengthPenalty": 1.5, "earlyStopping": "never"},
    {"numBeams": 2, "repetitionPenalty": 1.4, "noRepeatNgramSize": 2, "numReturnSequences": 2},
    {"numBeams": 1, "noRepeatNgramSize": 2},
]
NAMES = {
    "numBeams": "num_beams", "numReturnSequences": "num_return_sequences", "lengthPenalty": "length_penalty",
    "earlyStopping": "early_stopping", "repetitionPenalty": "repetition_penalty", "noRepeatNgramSize": "no_repeat_ngram_size",
}
MODELS = ["llama", "gpt2", "t5"]


def load(kind):
    config = transformers.AutoConfig.from_pretrained(BASE / kind)
    cls = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
    return cls.from_pretrained(BASE / kind).eval()


def adapted(kind, folder):
    model = load(kind)
    if model.config.is_encoder_decoder:
        # What PEFT 0.21 looks for has another name in transformers 5.18.
        model._prepare_encoder_decoder_kwargs_for_generation = None
    return PeftModel.from_pretrained(model, folder).merge_and_unload().eval()


@torch.inference_mode()
def run(model, prompt, eos, settings):
    options = {NAMES[name]: value for name, value in settings.items()}
    ids = torch.tensor([prompt])
    model.config.eos_token_id = model.generation_config.eos_token_id = None
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False, pad_token_id=0, eos_token_id=eos or None,
        return_dict_in_generate=True, output_scores=True, top_k=None, **options,
    )
    start = 1 if model.config.is_encoder_decoder else len(prompt)
    found = []
    for i, row in enumerate(out.sequences.tolist()):
        tokens = row[start:]
        ends = [at for at, token in enumerate(tokens) if token in eos]
        if ends:
            tokens = tokens[: ends[0] + 1]
        score = out.sequences_scores[i].item() if settings["numBeams"] > 1 else None
        found.append({"tokenIds": tokens, "score": score})
    return found


def ends_of(model, prompts):
    """Tokens that likely texts hold early, so that texts end at different lengths."""
    found = run(model, prompts[0], [], {"numBeams": 3, "numReturnSequences": 3})
    other = run(model, prompts[1], [], {"numBeams": 3, "numReturnSequences": 3})
    return [found[0]["tokenIds"][4], other[1]["tokenIds"][2]]


def cases(name, kind, model, adapter=None, some=SETTINGS, endless=True):
    ends = ends_of(model, PROMPTS)
    for eos in ([], ends) if endless else (ends[:1],):
        for settings in some:
            results = [run(model, prompt, eos, settings) for prompt in PROMPTS]
            yield {"name": name, "kind": kind, "adapter": adapter, "eos": eos, "settings": settings, "results": results}


contents = []
for kind in MODELS:
    contents += cases(kind, kind, load(kind), endless=kind != "gpt2")
for kind, folder in [("llama", "lora/all_linear"), ("t5", "adapters/lora/t5")]:
    contents += cases(f"{kind} adapted", kind, adapted(kind, HERE.parent / "golden" / folder), folder, SETTINGS[1:4], False)
result = {"prompts": PROMPTS, "maxNewTokens": NEW, "cases": contents}
(HERE / "beams.golden.json").write_text(json.dumps(result, separators=(",", ":")) + "\n")
