"""Data for a model whose target brings none: ``--input SHAPE[:DTYPE[:HIGH]]``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import click

FLOATS = ("float32", "float64", "float16", "bfloat16")
INTEGERS = ("int64", "int32", "uint8")


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSpec:
    """What one ``--input`` asks for: standard normal floats, or integers below ``high``."""

    shape: tuple[int, ...]
    dtype: str = "float32"
    high: int | None = None

    def draw(self, generator: Any) -> Any:
        """Return a tensor of such numbers."""
        import torch

        dtype = getattr(torch, self.dtype)
        if self.high is not None:
            return torch.randint(self.high, self.shape, generator=generator, dtype=dtype)
        return torch.randn(self.shape, generator=generator).to(dtype)


def parse_input(text: str) -> InputSpec:
    """Return what ``32,3,224,224``, ``8,64:float64`` or ``4,16:int64:1000`` asks for.

    Raises
    ------
    click.BadParameter
        If ``text`` is none of these.
    """
    shape_text, *rest = text.split(":")
    dtype = rest[0] if rest else FLOATS[0]
    try:
        shape = tuple(int(size) for size in shape_text.split(","))
        high = int(rest[1]) if len(rest) > 1 else None
    except ValueError:
        shape, high = (), None
    if not shape or min(shape) < 1 or len(rest) > 2:
        raise click.BadParameter(
            f"{text!r} is no shape: expected whole numbers above 0 between commas, as in "
            "32,3,224,224 or 4,16:int64:1000."
        )
    if dtype not in FLOATS + INTEGERS:
        raise click.BadParameter(
            f"there is no dtype {dtype!r} here: choose from {', '.join(FLOATS + INTEGERS)}."
        )
    if (dtype in INTEGERS) != (high is not None and high > 0):
        raise click.BadParameter(
            f"{text!r}: integers, and only integers, need the number below which they lie, as in "
            f"{shape_text}:int64:1000."
        )
    return InputSpec(shape=shape, dtype=dtype, high=high)


def draw_inputs(specs: Sequence[InputSpec], *, seed: int, device: Any) -> tuple[Any, ...]:
    """Return positional arguments for a model, on its device, the same for the same seed.

    On the meta device floats have a shape and no numbers. Integers keep theirs: which of them are
    equal matters to an embedding, and they take little memory.
    """
    import torch

    # Drawn on the CPU, so that a model sees the same inputs on every device.
    generator = torch.Generator().manual_seed(seed)
    if torch.device(device).type == "meta":
        return tuple(
            torch.empty(spec.shape, dtype=getattr(torch, spec.dtype), device=device)
            if spec.high is None
            else spec.draw(generator)
            for spec in specs
        )
    return tuple(spec.draw(generator).to(device) for spec in specs)
