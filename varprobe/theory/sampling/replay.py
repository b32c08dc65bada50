"""Running the tape on numbers, for several draws of the weights side by side."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

from varprobe.errors import MissingRuleError
from varprobe.observation.forwards import RootForward
from varprobe.observation.gradients import GradientTaps
from varprobe.observation.preservation import preserved_random_states, seed_generators
from varprobe.theory.law import Weight
from varprobe.theory.parameters import Parameter
from varprobe.theory.sampling.contraction import OPERANDS, Contraction, find_contraction
from varprobe.theory.sampling.estimate import Estimate, Tally
from varprobe.theory.sampling.sources import draw_sources
from varprobe.theory.tracer import Operation, Slot, Tape

MOST_ELEMENTS = 2**28
"""Numbers in all draws of all tensors together: 1 GB of float32 if autograd kept them all."""

FEWEST_DRAWS = 2
"""Draws from which a scatter can be told."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """What the draws showed.

    Parameters
    ----------
    draws : int
        How many there were; 0 if none could be made.
    reason : str
        Why there were none.
    activations, gradients : mapping of int to Estimate
        By the value of the tape.
    """

    draws: int = 0
    reason: str = ""
    activations: Mapping[int, Estimate] = field(default_factory=dict)
    gradients: Mapping[int, Estimate] = field(default_factory=dict)

    def find_activation(self, value: int) -> Estimate | str:
        """Return the estimate of a value, or why there is none."""
        return self.activations.get(value, self._refuse())

    def find_gradient(self, value: int | None) -> Estimate | str:
        """Return the estimate of the gradient of a value, or why there is none."""
        return self._refuse() if value is None else self.gradients.get(value, self._refuse())

    def _refuse(self) -> str:
        return self.reason or "no draw reached it"


def sample(
    tape: Tape,
    parameters: Mapping[int, Parameter],
    *,
    results: Sequence[int],
    loss: Callable[[Any], Tensor] | bool | None,
    draws: int,
    seed: int,
) -> Sampled:
    """Run the tape for several draws of the weights and pool what comes out.

    Parameters
    ----------
    tape : Tape
        What the model did.
    parameters : mapping of int to Parameter
        The parameters and their laws, by value.
    results : sequence of int
        The values that the model returned.
    loss : callable, False or None
        As in `varprobe.predict`.
    draws : int
        How many are wanted; large models get fewer.
    seed : int
        The same seed gives the same numbers.

    Returns
    -------
    Sampled
        Of every value that a module returned and of every parameter's gradient. A model that cannot
        be run on other weights than its own yields none, with the reason.
    """
    size = _count_elements(tape)
    draws = min(draws, MOST_ELEMENTS // max(1, size))
    if draws < FEWEST_DRAWS:
        return Sampled(reason=f"its {size:,} intermediate numbers are too many to draw")
    replay = _Replay(tape, parameters, results)
    try:
        with preserved_random_states(), _ordinary(tape):
            seed_generators(seed)
            values = replay.go_forward(draws)
            if loss is not False:
                replay.go_back(values, loss if callable(loss) else None)
    except Exception as error:
        # Whatever the model's own code may raise on other weights than its own.
        first_line = str(error).partition("\n")[0]
        return Sampled(reason=f"{type(error).__name__}: {first_line}")
    return Sampled(draws, "", replay.activations.pool(), replay.gradients.pool())


def _count_elements(tape: Tape) -> int:
    """Return how many numbers one draw holds: those of the sources, and what is made anew."""
    made = [
        value
        for operation in tape.operations
        if operation.op is not None
        and all(r.alias_info is None for r in operation.op._schema.returns)
        for value in operation.outputs
    ]
    return sum(torch.Size(tape.shapes[value]).numel() for value in (*tape.sources, *made))


@contextlib.contextmanager
def _ordinary(tape: Tape) -> Iterator[None]:
    """Switch off whatever could change how operations run: casts stand on the tape themselves."""
    kinds = {tensor.device.type for tensor in tape.sources.values()} - {"meta"}
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(_disable_current_modes())
        for kind in kinds | {"cpu"}:
            stack.enter_context(torch.autocast(kind, enabled=False))
        yield


class _Replay:
    """One run of the tape over all draws."""

    def __init__(
        self, tape: Tape, parameters: Mapping[int, Parameter], results: Sequence[int]
    ) -> None:
        self._tape = tape
        self._parameters = parameters
        self._results = list(dict.fromkeys(results))
        self._watched = {output.value for output in tape.outputs}
        self._uses = Counter(slot.value for o in tape.operations for slot in _list_slots(o))
        self._weights = {
            value: Weight(parameter.law, tuple(parameter.tensor.shape), 0)
            for value, parameter in parameters.items()
            if parameter.law is not None
        }
        self.activations, self.gradients = Tally(), Tally()
        self._taps = GradientTaps(self._on_gradient)
        self._forward = RootForward()

    def _on_gradient(self, values: Sequence[object], gradient: Tensor, _: int) -> None:
        for value in values:
            self.gradients.add(value, gradient)  # type: ignore[arg-type]

    def go_forward(self, draws: int) -> dict[int, list[Tensor]]:
        """Return the values that the model returns, each in all draws."""
        values = draw_sources(self._tape, self._parameters, draws)
        for value, drawn in values.items():
            self._watch(value, drawn, is_parameter=value in self._parameters)
        last = self._find_last_uses()
        for index, operation in enumerate(self._tape.operations):
            for value, drawn in self._run(operation, values):
                values[value] = drawn
                self._watch(value, drawn)
            for value in last.get(index, ()):
                values.pop(value, None)
        return values

    def go_back(
        self,
        values: Mapping[int, list[Tensor]],
        loss: Callable[[Any], Tensor] | None,
    ) -> None:
        """Send gradients back: of the loss, or independent N(0, 1) ones of every result."""
        if loss is not None:
            draws = range(len(next(iter(values.values()))))
            torch.autograd.backward([loss(self._rebuild(values, draw)) for draw in draws])
            return
        roots: list[Tensor] = []
        cotangents: list[Tensor] = []
        for value in self._results:
            found = [t for t in self._read(values, Slot(value)) if t.requires_grad]
            roots += found
            cotangents += _draw_cotangents(found)
        if roots:
            torch.autograd.backward(roots, cotangents)

    def _rebuild(self, values: Mapping[int, list[Tensor]], draw: int) -> Any:
        """Return what the model returned in one draw."""
        return pytree.tree_map_only(
            Slot, lambda slot: self._read(values, slot)[draw], self._tape.results
        )

    def _watch(self, value: int, drawn: Sequence[Tensor], *, is_parameter: bool = False) -> None:
        if not is_parameter and value not in self._watched:
            return
        for tensor in drawn:
            if value in self._watched and (tensor.is_floating_point() or tensor.is_complex()):
                self.activations.add(value, tensor)
            if tensor.requires_grad:
                self._taps.tap(tensor, value, self._forward)

    def _run(
        self, operation: Operation, values: Mapping[int, list[Tensor]]
    ) -> Iterator[tuple[int, list[Tensor]]]:
        if operation.op is None:
            for value, inner in zip(operation.outputs, operation.renames, strict=True):
                yield value, self._read(values, Slot(inner))
            return
        contraction = find_contraction(operation, self._weights, self._uses)
        if contraction is not None and operation.grad:
            yield operation.outputs[0], self._contract(contraction, operation, values)
            return
        draws = len(next(iter(values.values())))
        runs = [self._run_once(operation, values, draw) for draw in range(draws)]
        for place, value in enumerate(operation.outputs):
            yield value, [run[place] for run in runs]

    def _contract(
        self, contraction: Contraction, operation: Operation, values: Mapping[int, list[Tensor]]
    ) -> list[Tensor]:
        assert operation.op is not None
        draws = len(next(iter(values.values())))
        places = OPERANDS[operation.op.overloadpacket]
        given = [operation.args[p] if p < len(operation.args) else None for p in places]
        inputs, weights, biases = (
            self._read(values, slot) if isinstance(slot, Slot) else [None] * draws for slot in given
        )
        return contraction(inputs, weights, biases)  # type: ignore[arg-type]

    def _run_once(
        self, operation: Operation, values: Mapping[int, list[Tensor]], draw: int
    ) -> list[Tensor]:
        assert operation.op is not None
        args, kwargs = pytree.tree_map_only(
            Slot, lambda slot: self._read(values, slot)[draw], (operation.args, operation.kwargs)
        )
        with torch.set_grad_enabled(operation.grad):
            result = operation.op(*args, **kwargs)
        return [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]

    def _read(self, values: Mapping[int, list[Tensor]], slot: Slot) -> list[Tensor]:
        # The tensors of a lost value are those that held the one before: what was written to them
        # through another view stands in them.
        (*_, value) = self._tape.trace_back(slot.value)
        if value in self._tape.lost:
            raise MissingRuleError("memory was written to through a view that cannot be found")
        return values[value]

    def _find_last_uses(self) -> dict[int, list[int]]:
        """Return the values that nobody reads after each operation."""
        last: dict[int, int] = {}
        for index, operation in enumerate(self._tape.operations):
            for value in (*operation.outputs, *operation.renames):
                last[value] = index
            for slot in _list_slots(operation):
                last[slot.value] = index
        kept = {s.value for s in pytree.tree_leaves(self._tape.results) if isinstance(s, Slot)}
        kept |= {value for value in self._tape.lost.values() if value is not None}
        kept |= {*self._tape.sources, *self._results}
        freed: dict[int, list[int]] = {}
        for value, index in last.items():
            if value not in kept:
                freed.setdefault(index, []).append(value)
        return freed


def _draw_cotangents(roots: Sequence[Tensor]) -> list[Tensor]:
    """Return independent N(0, 1) numbers, whose mean square over all draws is 1 exactly.

    A head of ten outputs has few of them, and every gradient below scatters with theirs.
    """
    drawn = [torch.randn_like(root) for root in roots]
    squares = sum(float(c.abs().double().square().sum()) for c in drawn)
    count = sum(c.numel() for c in drawn)
    factor = math.sqrt(count / squares) if squares else 1.0
    return [c * factor for c in drawn]


def _list_slots(operation: Operation) -> list[Slot]:
    leaves = pytree.tree_leaves((operation.args, operation.kwargs))
    return [leaf for leaf in leaves if isinstance(leaf, Slot)]
