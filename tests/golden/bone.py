"""Writes bone/: adapters of BONE, which PEFT 0.21 no longer has, and what they gave.

    pip install --no-deps --target DIR peft==0.18.1
    PYTHONPATH=DIR $GRAFT_ORACLE_PYTHON tests/golden/bone.py
"""

from __future__ import annotations

from run_case import prepare, run_case  # first

from pathlib import Path

from cases import Case

CASES = [
    Case("plain", config=dict(r=5, target_modules=r".*\.(q|v|down)_proj")),
    Case("bat", config=dict(r=4, init_weights="bat", target_modules=["down_proj"], modules_to_save=["lm_head"])),
    Case("biased_layers", "qwen2", dict(r=8, init_weights=False, target_modules=r".*\.(k|o)_proj")),
]

if __name__ == "__main__":
    here = Path(__file__).resolve().parent
    prepare(here)
    for case in CASES:
        case = Case(case.name, case.kind, case.config, config_class="BoneConfig", compact=True)
        run_case(case, 0, Path("bone", case.name))
