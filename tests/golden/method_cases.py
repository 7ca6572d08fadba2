"""Golden files of the methods beside LoRA, below methods/, made by the real PEFT.

    $GRAFT_ORACLE_PYTHON tests/golden/generate.py --only method_cases [--methods NAME ...] [--out DIR] [--seed N]

DIR (tests/golden by default) holds the bases below base/; those that are missing are made. What the files hold is in README.md beside this. A method
is a table in method_tables/: cases as for LoRA, initial values, and what PEFT refuses.
"""

from __future__ import annotations

import importlib
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

from run_case import prepare, run_case, run_init, run_refused, write_base, write_json  # first

from cases import Case


@dataclass(frozen=True)
class Method:
    """One method: `config_class` is the name of PEFT's class for its config."""

    config_class: str
    cases: list[Case]
    # Straight after torch.manual_seed(seed) and get_peft_model: base and arguments.
    inits: dict[str, tuple[str, dict]] = field(default_factory=dict)
    # Names of the cases that are written whole; the others are compact.
    whole: tuple[str, ...] = ()
    # What PEFT refuses: base, arguments, and those of a second adapter where it is that.
    refused: dict[str, tuple[str, dict] | tuple[str, dict, dict]] = field(default_factory=dict)
    # PEFT's name of the method, where it is not that of the table.
    peft_type: str | None = None




def write_method(name: str, method: Method, seed: int) -> None:
    """Writes methods/<name>/ with its index.json; the working directory holds base/."""
    folder = Path("methods", name)
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "init").mkdir(parents=True)
    cases = [
        replace(case, config_class=method.config_class, compact=case.name not in method.whole)
        for case in method.cases
    ]
    for kind in {case.kind for case in cases}:
        if not Path("base", kind).exists():
            write_base(kind, seed + 100)
    for case in cases:
        run_case(case, seed, folder / case.name)
        print(f"{name} {case.name}", flush=True)
    inits = {
        init: run_init(method.config_class, *asked, seed + 1234, folder / "init" / f"{init}.safetensors")
        for init, asked in method.inits.items()
    }
    refused = {key: run_refused(method.config_class, *asked) for key, asked in method.refused.items()}
    index = {
        "peft_type": method.peft_type or name.upper(),
        "config_class": method.config_class,
        "seed": seed,
        "cases": [
            {"name": case.name, "kind": case.kind, "adapters": list(case.adapters or [])}
            for case in cases
        ],
        "init": inits,
        "refused": refused,
    }
    write_json(index, folder / "index.json")


def write(out: Path, seed: int, names: list[str] | None = None) -> None:
    """Writes methods/ below a folder that holds base/, or will; all methods, or those of these names."""
    prepare(out)
    tables = Path(__file__).with_name("method_tables")
    for name in names or sorted(path.stem for path in tables.glob("*.py")):
        method = importlib.import_module(f"method_tables.{name}").METHOD
        if method:
            write_method(name, method, seed)
        else:
            print(f"{name} stays as it is: what makes it is not installed", flush=True)
