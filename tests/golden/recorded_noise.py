"""What adapted layers draw at random while a model runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

DRAWS = ("rand", "randn", "randn_like")


@contextlib.contextmanager
def recorded_noise(model: torch.nn.Module) -> Iterator[dict[str, list[torch.Tensor]]]:
    """The numbers that each layer draws, by its path, in the order of draws."""
    drawn: dict[str, list[torch.Tensor]] = {}
    current: list[str] = []
    handles = []
    for path, layer in model.named_modules():
        if not isinstance(layer, getattr(model.base_model, "tuner_layer_cls", ())):
            continue
        name = path.removeprefix("base_model.model.")
        handles.append(layer.register_forward_pre_hook(lambda *_, name=name: current.append(name)))
        handles.append(layer.register_forward_hook(lambda *_: current.clear()))
    originals = {name: getattr(torch, name) for name in DRAWS}

    def recording(draw):
        def drawing(*args, **kwargs) -> torch.Tensor:
            numbers = draw(*args, **kwargs)
            if current:
                drawn.setdefault(current[-1], []).append(numbers.clone())
            return numbers

        return drawing

    for name, draw in originals.items():
        setattr(torch, name, recording(draw))
    try:
        yield drawn
    finally:
        for name, draw in originals.items():
            setattr(torch, name, draw)
        for handle in handles:
            handle.remove()
