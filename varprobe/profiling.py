"""One-shot experiments: run a model over draws of its weights and record everything."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from varprobe.errors import InvalidArgumentError, UnsupportedModelError
from varprobe.initializers import initialize
from varprobe.modules import (
    Inputs,
    Loss,
    name_modules,
    own_parameters,
    split_inputs,
    walk_tensors,
)
from varprobe.observation.filters import Filters
from varprobe.observation.influence import find_influential
from varprobe.observation.ledger import UNCALLED
from varprobe.observation.preservation import (
    copy_inputs,
    preserved,
    preserved_random_states,
    seed_generators,
)
from varprobe.probe import Probe
from varprobe.recording import Recording, Unobserved
from varprobe.schema import SIGNALS

IGNORANT_LOSS = (
    "The loss does not depend on any parameter of the model that requires a gradient. Compute it "
    "from the output that it is given, or pass loss=False for the forward pass only."
)

Initialization = str | Callable[[nn.Module], object]

_WEIGHTS, _FORWARD, _COTANGENT, _INPUTS = range(4)
"""Streams of random numbers within a draw: what one of them uses up does not move the others, so
that two initializations are compared under the same dropout masks and the same cotangent."""


def profile(
    model: nn.Module | Callable[[], nn.Module],
    inputs: Inputs | Callable[[int], Inputs],
    *,
    kwargs: Mapping[str, Any] | None = None,
    init: Initialization | None = None,
    draws: int = 1,
    seed: int = 0,
    loss: Loss | Literal[False] | None = None,
    stats: str = "full",
    include: Filters | None = None,
    exclude: Filters = (),
    ops: bool = False,
    run: str = "",
    compiled: str = "error",
    progress: Callable[[int], object] | None = None,
) -> Recording:
    """Record one forward and one backward pass for each draw of the weights.

    Nothing is left behind: parameters, buffers, gradients, train/eval mode, hooks and random states
    are as before, also after an exception. The model runs in its own train/eval mode. Where
    trainable weights belong to layers that nobody called, it runs again to see if they are used.

    Parameters
    ----------
    model : torch.nn.Module or callable
        A model, or a function without arguments that builds one; it is called once for each draw.
    inputs : tensor, tuple, mapping or callable
        A tensor, a tuple of positional arguments, a mapping of keyword arguments, or a function
        ``draw -> inputs`` for fresh data with each draw; global generators are seeded for it.
    kwargs : mapping, optional
        Keyword arguments beside a tensor or a tuple.
    init : str or callable, optional
        The initialization to draw the weights from: a name that `varprobe.initialize` knows, or a
        function of a module. None keeps the weights of a model, and those that a builder made.
    draws : int
        Samples of the weights, at least 1. A single draw is an anecdote: in a correct He net of
        width n the log second moment scatters by sqrt(5 l / n) at layer l.
    seed : int
        The same seed gives the same numbers.
    loss : callable, False or None
        None sends a random cotangent with independent unit-variance elements into every
        differentiable output, so that the relative growth of gradients is what is measured. A
        callable maps the output to a scalar. False runs the forward pass only.
    stats : {"full", "moments"}
        As in `varprobe.Probe`.
    include, exclude : str, class, callable, or sequence of these
        Which modules to record, as in `varprobe.Probe`.
    ops : bool
        Also record what functions return within the modules, as in `varprobe.Probe`.
    run : str
        Label of the records; the initialization's name if there is one.
    compiled : {"error", "eager"}
        As in `varprobe.Probe`.
    progress : callable, optional
        Called with the number of finished draws after each.

    Returns
    -------
    Recording
        Activations, gradients, weights and weight gradients of all draws.

    Raises
    ------
    InvalidArgumentError
        If ``draws`` asks for several draws of weights that are kept, or the loss is no
        differentiable scalar, or the filters leave nothing to record.
    UnknownNameError
        If ``init`` is no known name, or a pattern matches no module.
    UnsupportedModelError
        If the model cannot be observed, or is no module.

    Examples
    --------
    >>> import torch, varprobe as vp
    >>> build = lambda: torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU())
    >>> recording = vp.profile(build, torch.randn(32, 64), init="kaiming_normal", draws=5)
    >>> recording
    <Recording of Sequential: 5 draws, 2 weights, 3 activations, 3 gradients, 2 weight_gradients>
    """
    if draws < 1:
        raise InvalidArgumentError(f"draws={draws}: at least one draw of the weights is needed.")
    if draws > 1 and init is None and isinstance(model, nn.Module):
        raise InvalidArgumentError(
            f"draws={draws} with the weights kept as they are would repeat one draw. Name the "
            'initialization to draw from (init="default", init="kaiming_normal", …), or give a '
            "function that builds the model instead of the model."
        )
    if not (loss is None or loss is False or callable(loss)):
        raise InvalidArgumentError(
            f"loss={loss!r}: expected a function of the model's output, None for a random "
            "cotangent, or False for the forward pass only."
        )
    label = run or (init if isinstance(init, str) else "")
    recordings = []
    for draw in range(draws):
        seeds = _Seeds(seed, draw)
        built = build_model(model, seed=seed, draw=draw)
        # Inference mode would make tensors that no backward pass can use.
        with preserved_random_states(), torch.inference_mode(False):
            seed_generators(seeds.derive(_INPUTS))
            args, named = copy_inputs(split_inputs(_draw_inputs(inputs, draw), kwargs))
            probe = Probe(
                built,
                stats=stats,
                signals=SIGNALS,
                include=include,
                exclude=exclude,
                ops=ops,
                compiled=compiled,
                run=label,
                draw=draw,
            )
            with preserved(built):
                if init is not None:
                    initialize(built, init, seed=seeds.derive(_WEIGHTS))
                with torch.set_grad_enabled(loss is not False), probe:
                    missing = _run(built, args, named, loss, seeds)
                recording = probe.recording
                if loss is not False and draw == 0:  # other weights are used in the same way
                    missing += _find_detached(built, args, named, recording, seeds)
        recordings.append(_annotate(recording, init, seed, loss, missing))
        if progress is not None:
            progress(draw + 1)
    first, *rest = recordings
    return first.merge(*rest) if rest else first


@dataclass(frozen=True, slots=True)
class _Seeds:
    """The seeds of one draw, one for each stream."""

    seed: int
    draw: int

    def derive(self, stream: int) -> int:
        # Neighbouring seeds give unrelated streams; every generator of torch takes 63 bits.
        words = np.random.SeedSequence((self.seed, self.draw, stream)).generate_state(1, "uint64")
        return int(words[0] >> 1)


def _draw_inputs(inputs: Inputs | Callable[[int], Inputs], draw: int) -> Inputs:
    if callable(inputs) and not isinstance(inputs, torch.Tensor | Mapping):
        return inputs(draw)
    return inputs


def build_model(
    model: nn.Module | Callable[[], nn.Module], *, seed: int, draw: int = 0
) -> nn.Module:
    """Return the model that `profile` runs in this draw: the one given, or one built from the seed.

    Raises
    ------
    UnsupportedModelError
        If it is no module, or has no values to run with.
    """
    with preserved_random_states(), torch.inference_mode(False):
        seed_generators(_Seeds(seed, draw).derive(_WEIGHTS))
        built = model if isinstance(model, nn.Module) else model()
    if not isinstance(built, nn.Module):
        raise UnsupportedModelError(
            f"Expected a torch.nn.Module, or a function without arguments that builds one; got "
            f"{type(built).__name__}{'' if built is model else ' from the function'}."
        )
    if any(tensor.is_meta for tensor in [*built.parameters(), *built.buffers()]):
        raise UnsupportedModelError(
            f"{type(built).__name__} is on the meta device and has no values to run with. "
            "Build it on a real device, or use vp.predict, which needs none."
        )
    return built


def _run(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    loss: Loss | Literal[False] | None,
    seeds: _Seeds,
) -> list[Unobserved]:
    """Run forward and backward once; return why there are no gradients, where there are none."""
    seed_generators(seeds.derive(_FORWARD))
    output = model(*args, **kwargs)
    if loss is False:
        return []
    if loss is not None:
        # Taken before the loss is computed, which may change the output in place.
        origins = {t.grad_fn for _, t in walk_tensors(output)} - {None}
        value = _check_loss(loss(output))
        if not _leads_back(value, origins, model):
            raise InvalidArgumentError(IGNORANT_LOSS)
        value.backward()  # type: ignore[no-untyped-call]
        return []
    # An output may be listed under several names; it gets one cotangent.
    found = {id(t): (path, t) for path, t in walk_tensors(output) if t.requires_grad}
    roots = [tensor for _, tensor in found.values() if _is_dense(tensor)]
    generator = torch.Generator("cpu").manual_seed(seeds.derive(_COTANGENT))
    if roots:
        torch.autograd.backward(roots, [_draw_like(root, generator) for root in roots])
    elif not found:
        reason = "gradient: no output is differentiable, so none was sent back"
        return [Unobserved(module="", reason=reason)]
    return [
        Unobserved(module=path, reason="gradient: an output without dense layout got no cotangent")
        for path, tensor in found.values()
        if not _is_dense(tensor)
    ]


def _find_detached(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    recording: Recording,
    seeds: _Seeds,
) -> list[Unobserved]:
    """Return the weights of modules nobody called that have no gradient and are used all the same.

    The model runs again for it, if there are modules nobody called.
    """
    uncalled = {unseen.module for unseen in recording.unobserved if unseen.reason == UNCALLED}
    names = {module: known.name for module, known in name_modules(model).items()}
    suspects = {
        f"{names[module] or '(root)'}.{name}": parameter
        for module, name, parameter in own_parameters(names)
        if names[module] in uncalled and parameter.requires_grad and parameter.grad is None
    }

    def forward() -> object:
        seed_generators(seeds.derive(_FORWARD))
        return model(*copy_inputs(args), **copy_inputs(kwargs))

    reason = "weight_gradient: used detached or without a graph; the output depends on the weight"
    return [Unobserved(module=name, reason=reason) for name in find_influential(forward, suspects)]


def _is_dense(tensor: torch.Tensor) -> bool:
    return tensor.layout is torch.strided and not tensor.is_nested


def _draw_like(root: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    # Drawn on the CPU in float32, so that devices and dtypes see the same cotangent.
    dtype = torch.complex64 if root.is_complex() else torch.float32
    return torch.randn(root.shape, generator=generator, dtype=dtype, device="cpu").to(root)


def _check_loss(value: object) -> torch.Tensor:
    if not isinstance(value, torch.Tensor) or value.numel() != 1:
        found = f"shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else repr(value)
        raise InvalidArgumentError(
            f"The loss must be a scalar tensor, got {found}. Reduce it, for example with .mean()."
        )
    if not value.requires_grad:
        raise InvalidArgumentError(IGNORANT_LOSS)
    return value


def _leads_back(loss: torch.Tensor, origins: Set[object], model: nn.Module) -> bool:
    """Tell whether the graph of a loss leads to where the output came from, or to a parameter."""
    parameters = {id(parameter) for parameter in model.parameters()}
    if id(loss) in parameters:
        return True
    pending: list[Any] = [loss.grad_fn]
    # Nodes are kept, not their ids: torch makes a new object for a node whose last one is gone.
    seen: set[object] = {None}
    while pending:
        node = pending.pop()
        if node in seen:
            continue
        if node in origins or id(getattr(node, "variable", None)) in parameters:
            return True
        seen.add(node)
        pending += [before for before, _ in node.next_functions]
    return False


def _annotate(
    recording: Recording,
    init: Initialization | None,
    seed: int,
    loss: Loss | Literal[False] | None,
    missing: list[Unobserved],
) -> Recording:
    named = "none" if loss is False else "random cotangent" if loss is None else "user"
    meta = {
        **recording.meta,
        "init": init if isinstance(init, str) or init is None else _name_of(init),
        "seed": seed,
        "loss": named,
    }
    return replace(recording, meta=meta, unobserved=(*recording.unobserved, *missing))


def _name_of(function: Callable[..., object]) -> str:
    return getattr(function, "__qualname__", type(function).__name__)
