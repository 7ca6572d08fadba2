"""Python PEFT on torch at SmolLM2-135M's shape: the figures Graft is measured against.

    $GRAFT_ORACLE_PYTHON bench/peers/torch_peft.py [--threads N] [--gguf FILE] [--steps 4] \
        [train decode first-token first-token-gguf]

Each measurement runs in a process of its own and prints one JSON line:
  train             LoRA (r 8, alpha 16, all-linear, dropout 0), AdamW, f32, batch 4 x 128:
                    tokens/s from the median step, after one step of warm-up
  decode            transformers generate, f32, batch 1, greedy, KV cache, 32 prompt tokens,
                    64 new ones: tokens/s from the median step of the last 48
  first-token       seconds from process start (so with all imports) to the first token of a
                    32-token prompt, the f32 model read from a safetensors folder
  first-token-gguf  the same from the GGUF file (needs --gguf)
Every line has peakRssMb of its process, the threads and the versions. Weights are random (seed 0)
unless --model names a folder saved by transformers; speed does not depend on their values.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SHAPE = dict(
    vocab_size=49152,
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    max_position_embeddings=8192,
    rms_norm_eps=1e-5,
    tie_word_embeddings=True,
    rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
)
BATCH, LENGTH, PROMPT_TOKENS, NEW_TOKENS, WARM_TOKENS = 4, 128, 32, 64, 16
SAVE_MODEL = "save-model"  # no measurement: makes the folder that the others read
MEASUREMENTS = ("train", "decode", "first-token", "first-token-gguf")


def prompt_ids():
    import torch

    generator = torch.Generator().manual_seed(1)
    return torch.randint(3, SHAPE["vocab_size"], (1, PROMPT_TOKENS), generator=generator)


def random_model():
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SHAPE)).float()


def load_model(options):
    """From the folder, in f32."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)


def measure_train(options) -> dict:
    import torch
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(load_model(options), config).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    generator = torch.Generator().manual_seed(2)
    seconds = []
    for _ in range(options.steps + 1):
        ids = torch.randint(3, SHAPE["vocab_size"], (BATCH, LENGTH), generator=generator)
        start = time.perf_counter()
        optimizer.zero_grad()
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - start)
    steady = seconds[1:]
    return {
        "tokensPerSecond": BATCH * LENGTH / statistics.median(steady),
        "bestTokensPerSecond": BATCH * LENGTH / min(steady),
        "stepSeconds": steady,
        "loss": loss.item(),
    }


def greedy(model, new_tokens: int) -> list[float]:
    """Times at which each new token was there."""
    import torch
    from transformers import StoppingCriteria, StoppingCriteriaList

    times: list[float] = []

    class Clock(StoppingCriteria):
        def __call__(self, input_ids, scores, **_):
            times.append(time.perf_counter())
            return torch.zeros(input_ids.shape[0], dtype=torch.bool)

    ids = prompt_ids()
    with torch.no_grad():
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
            pad_token_id=2,
            stopping_criteria=StoppingCriteriaList([Clock()]),
        )
    return times


def measure_decode(options) -> dict:
    model = load_model(options).eval()
    start = time.perf_counter()
    times = greedy(model, NEW_TOKENS)
    steps = [b - a for a, b in zip(times[WARM_TOKENS - 1 :], times[WARM_TOKENS:])]
    return {
        "tokensPerSecond": 1 / statistics.median(steps),
        "bestTokensPerSecond": 1 / min(steps),
        "prefillSeconds": times[0] - start,
    }


def measure_first_token(options) -> dict:
    import torch
    from transformers import AutoModelForCausalLM

    if options.one == "first-token-gguf":
        gguf = Path(options.gguf)
        source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    else:
        source = {"pretrained_model_name_or_path": options.model}
    model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32).eval()
    loaded = time.time()
    greedy(model, 1)
    return {
        "seconds": time.time() - options.started,
        "loadedAfterSeconds": loaded - options.started,
    }


def peak_rss_mb() -> float:
    """Of this program alone: ru_maxrss would carry over what the parent had before exec."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(l for l in status.read_text().splitlines() if l.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run_one(options) -> None:
    """The child: one measurement, one line."""
    if options.one == SAVE_MODEL:
        random_model().save_pretrained(options.model)
        return
    import torch
    import transformers

    torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    measure = {"train": measure_train, "decode": measure_decode}.get(
        options.one, measure_first_token
    )
    result = measure(options)
    line = {
        "peer": "torch",
        "measurement": options.one,
        **result,
        "peakRssMb": peak_rss_mb(),
        "threads": options.threads,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    if options.one == "train":
        import peft

        line["versions"]["peft"] = peft.__version__
    print(json.dumps(line), flush=True)


def spawn(name: str, options, model: str) -> None:
    command = [sys.executable, __file__, "--one", name, "--threads", str(options.threads)]
    command += ["--steps", str(options.steps), "--model", model]
    command += ["--gguf", options.gguf] if options.gguf else []
    threads = str(options.threads)
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
    }
    subprocess.run([*command, "--started", str(time.time())], env=environment, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "measurements", nargs="*", metavar="measurement", help=", ".join(MEASUREMENTS)
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--model", help="a folder saved by transformers")
    parser.add_argument("--gguf")
    parser.add_argument("--one", choices=(*MEASUREMENTS, SAVE_MODEL), help=argparse.SUPPRESS)
    parser.add_argument("--started", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        run_one(options)
        return
    chosen = options.measurements or [
        m for m in MEASUREMENTS if m != "first-token-gguf" or options.gguf
    ]
    if unknown := set(chosen) - set(MEASUREMENTS):
        parser.error(f"no such measurement: {', '.join(sorted(unknown))}")
    if "first-token-gguf" in chosen and not options.gguf:
        parser.error("first-token-gguf needs --gguf")
    with tempfile.TemporaryDirectory() as folder:
        model = options.model
        if not model:
            model = folder
            spawn(SAVE_MODEL, options, model)
        for name in chosen:
            spawn(name, options, model)


if __name__ == "__main__":
    main()
