"""Writes images.golden.json: files as Pillow reads them, and images as processors of transformers prepare them.

    $GRAFT_ORACLE_PYTHON tests/io/images.golden.py

It needs Pillow beside the other packages.
"""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import transformers
from PIL import Image, ImageOps
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

TURNED = Image.Exif()
TURNED[0x0112] = 6
FILES = {
    "a.jpg": ("RGB", dict(format="JPEG", quality=80)),
    "full.jpg": ("RGB", dict(format="JPEG", quality=90, subsampling=0)),
    "progressive.jpg": ("RGB", dict(format="JPEG", quality=60, progressive=True)),
    "gray.jpg": ("L", dict(format="JPEG")),
    "turned.jpg": ("RGB", dict(format="JPEG", exif=TURNED)),
    "a.png": ("RGB", dict(format="PNG")),
    "clear.png": ("RGBA", dict(format="PNG")),
    "palette.png": ("P", dict(format="PNG")),
    "gray.png": ("L", dict(format="PNG")),
    "a.webp": ("RGB", dict(format="WEBP", quality=70)),
    "lossless.webp": ("RGB", dict(format="WEBP", lossless=True)),
}
MEAN, STD = [0.1, 0.5, 0.7], [0.3, 0.25, 0.9]
# Class, arguments, and the width and height of an image.
CASES = [
    (ViTImageProcessorPil, dict(size={"height": 7, "width": 9}), (23, 17)),
    (ViTImageProcessorPil, dict(size={"height": 13, "width": 11}), (6, 5)),
    (ViTImageProcessorPil, dict(size={"height": 6, "width": 23}), (23, 17)),
    (
        ViTImageProcessorPil,
        dict(size={"height": 8, "width": 8}, resample=3, image_mean=MEAN, image_std=STD),
        (31, 20),
    ),
    (ViTImageProcessorPil, dict(size={"height": 8, "width": 8}, resample=1), (31, 20)),
    (
        ViTImageProcessorPil,
        dict(size={"height": 5, "width": 8}, resample=4, do_normalize=False),
        (31, 20),
    ),
    (
        ViTImageProcessorPil,
        dict(do_resize=False, rescale_factor=0.01, image_mean=0.25, image_std=2.0),
        (4, 3),
    ),
    (
        CLIPImageProcessorPil,
        dict(size={"shortest_edge": 9}, crop_size={"height": 8, "width": 7}),
        (23, 17),
    ),
    # Columns come first.
    (CLIPImageProcessorPil, dict(size=9, crop_size=9), (10, 27)),
    (ViTImageProcessorPil, dict(size={"height": 6, "width": 25}), (23, 17)),
    (
        CLIPImageProcessorPil,
        dict(size={"shortest_edge": 5}, crop_size={"height": 8, "width": 11}),
        (14, 11),
    ),
]


def pixels(width: int, height: int) -> Image.Image:
    """The image that both sides make: hard edges beside slopes."""
    y, x, c = np.mgrid[0:height, 0:width, 0:3]
    return Image.fromarray(((x * x * 7 + y * 13 + x * y * 3 + c * 50) % 256).astype(np.uint8))


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def decoded(name: str, mode: str, options: dict) -> dict:
    # Slopes: the fine pattern above has no colors that a palette or half the resolution could hold.
    y, x, c = np.mgrid[0:14, 0:21, 0:3]
    image = Image.fromarray((x * 9 + y * 4 * (c + 1)).clip(0, 255).astype(np.uint8)).convert(mode)
    if mode == "RGBA":
        image.putalpha(Image.fromarray((x[..., 0] * 11 % 256).astype(np.uint8)))
    file = io.BytesIO()
    image.save(file, **options)
    # As transformers' load_image.
    read = ImageOps.exif_transpose(Image.open(io.BytesIO(file.getvalue()))).convert("RGB")
    return {
        "name": name,
        "file": text(file.getvalue()),
        "width": read.width,
        "height": read.height,
        "rgb": text(read.tobytes()),
    }


def processed(kind, arguments: dict, size: tuple[int, int]) -> dict:
    values = kind(**arguments)(pixels(*size), return_tensors="np")["pixel_values"][0]
    return {
        "config": {"image_processor_type": kind.__name__.removesuffix("Pil"), **arguments},
        "image": size,
        "shape": values.shape,
        "values": [float(f"{x:.7g}") for x in values.flatten().tolist()],
    }


def main() -> None:
    golden = {
        "decoded": [decoded(name, *file) for name, file in FILES.items()],
        "processed": [processed(*case) for case in CASES],
        "saved": ViTImageProcessorPil().to_dict(),
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(golden, separators=(",", ":")) + "\n")


main()
