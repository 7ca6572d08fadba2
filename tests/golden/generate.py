"""Writes the golden files of tests/golden with the real PEFT.

    GRAFT_ORACLE_PYTHON=/path/to/python   # torch 2.13 (CPU), transformers 5.18, peft 0.21
    $GRAFT_ORACLE_PYTHON tests/golden/generate.py                    # everything, into tests/golden
    $GRAFT_ORACLE_PYTHON tests/golden/generate.py --out DIR --seed 0 basic dora   # some LoRA cases
    $GRAFT_ORACLE_PYTHON tests/golden/generate.py --only status combinations      # some subjects

The same seed and the same versions give the same bytes: one thread, one fixed Python hash seed
(PEFT writes its sets in hash order), no network. What the files hold is in README.md beside this.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from run_case import prepare, run_case, run_init, run_refused, write_base, write_json  # first

import peft
import torch
import transformers

import arrow
import combinations
import conversion
import corda
import intruders
import kappa
import method_cases
import prefix_tuning
import qalora
import status
import surface
import task_cases

from bases import BASES
from cases import CASES, INITS, REFUSED

CONFIG = "LoraConfig"

# Each writes files of its own; all stand on base/.
SUBJECTS = {
    module.__name__: module
    for module in (
        method_cases,
        prefix_tuning,
        qalora,
        combinations,
        conversion,
        corda,
        intruders,
        status,
        kappa,
        arrow,
        surface,
        task_cases,
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=SUBJECTS, help="write only these subjects")
    parser.add_argument("--methods", nargs="+", help="with --only method_cases: only these")
    parser.add_argument("cases", nargs="*", help="names of LoRA cases; none: everything")
    options = parser.parse_args()

    out = options.out.resolve()
    prepare(out)
    if options.only:
        for name in options.only:
            chosen = [options.methods] if name == "method_cases" else []
            SUBJECTS[name].write(out, options.seed, *chosen)
        return
    chosen = [case for case in CASES if not options.cases or case.name in options.cases]
    if unknown := set(options.cases) - {case.name for case in CASES}:
        parser.error(f"no such case: {', '.join(sorted(unknown))}")
    if not options.cases:
        # One seed: bases of one shape hold the same weights, and differ by what they are for.
        bases = [write_base(kind, options.seed + 100) for kind in BASES]
        shutil.rmtree("lora", ignore_errors=True)
        shutil.rmtree("init", ignore_errors=True)
        Path("init").mkdir()
    for case in chosen:
        run_case(case, options.seed, Path("lora", case.name))
        print(case.name, flush=True)
    if options.cases:
        return
    seed = options.seed + 1234
    inits = {
        name: run_init(CONFIG, kind, settings, seed, Path("init", f"{name}.safetensors"))
        for name, (kind, settings) in INITS.items()
    }
    write_json(inits, Path("init.json"))
    refused = {name: run_refused(CONFIG, *asked) for name, asked in REFUSED.items()}
    write_json(refused, Path("refused.json"))
    write_json(
        {
            "versions": {
                "peft": peft.__version__,
                "torch": torch.__version__,
                "transformers": transformers.__version__,
            },
            "seed": options.seed,
            "bases": bases,
            "lora": [
                {"name": case.name, "kind": case.kind, "adapters": list(case.adapters or [])}
                for case in CASES
            ],
            "init": list(INITS),
            "refused": list(REFUSED),
        },
        Path("cases.json"),
    )
    for module in SUBJECTS.values():
        module.write(out, options.seed)


if __name__ == "__main__":
    main()
