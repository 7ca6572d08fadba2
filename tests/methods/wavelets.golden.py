"""Writes wavelets.golden.json: what PyWavelets has of each wavelet's low-pass filter.

    pip install PyWavelets; python tests/methods/wavelets.golden.py

Its length, its largest element, and its sum with fixed weights.
"""

import json
import math
from pathlib import Path

import pywt

wavelets = {}
for family, last in (("db", 38), ("sym", 20), ("coif", 17)):
    for order in range(2 if family == "sym" else 1, last + 1):
        low = pywt.Wavelet(f"{family}{order}").rec_lo
        weighted = sum(x * math.sin(i + 1) for i, x in enumerate(low))
        wavelets[f"{family}{order}"] = [len(low), round(max(low), 9), round(weighted, 9)]

lines = ",\n".join(f'"{name}": {json.dumps(numbers)}' for name, numbers in wavelets.items())
Path(__file__).with_suffix(".json").write_text(f"{{\n{lines}\n}}\n")
