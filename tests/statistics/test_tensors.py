"""Tensors that are not dense floating-point ones, and contexts in which measuring is delicate."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
from torch.autograd import forward_ad
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

from tests.reference import moments as numpy_reference
from varprobe import Moments
from varprobe.statistics import Unmeasurable, measure, read


class Tagged(torch.Tensor):
    """A subclass that changes nothing."""


class Wrapper(torch.Tensor):
    """A subclass without memory of its own, as the result of a collective that is under way."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        def unwrap(value):
            return value.inner if isinstance(value, Wrapper) else value

        result = func(*map(unwrap, args), **(kwargs or {}))
        return Wrapper(result) if isinstance(result, torch.Tensor) else result


class Stubborn(torch.Tensor):
    """A subclass that refuses every operation."""

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise TypeError(f"no {func} today\nnor tomorrow")


def _quantize(x: torch.Tensor) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(x, 0.05, 0, torch.qint8)


def _nest(layout: torch.layout) -> Callable[[torch.Tensor], torch.Tensor]:
    def nest(x: torch.Tensor) -> torch.Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.nested.nested_tensor([x[:2], x[2:]], layout=layout)

    return nest


def _sparse(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x > 0, x, 0.0)


# Each maps a dense (4, 5) tensor to an unusual one, and that to the numbers it holds.
UNUSUAL: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], Callable]] = {
    "integer": (lambda x: (x * 9).long(), lambda t: t),
    "bool": (lambda x: x > 0, lambda t: t),
    "uint64": (lambda x: (x * 9).abs().to(torch.uint64), lambda t: t),
    "complex": (lambda x: torch.complex(x, x * 2).conj(), lambda t: t),
    "sparse COO": (lambda x: _sparse(x).to_sparse(), lambda t: t.to_dense()),
    "sparse CSR": (lambda x: _sparse(x).to_sparse_csr(), lambda t: t.to_dense()),
    "sparse CSC": (lambda x: _sparse(x).to_sparse_csc(), lambda t: t.to_dense()),
    "nested jagged": (_nest(torch.jagged), lambda t: torch.cat(t.unbind())),
    "nested strided": (_nest(torch.strided), lambda t: torch.cat(t.unbind())),
    "quantized": (_quantize, lambda t: t.dequantize()),
    "float8": (lambda x: x.to(torch.float8_e4m3fn), lambda t: t.float()),
    "0-dim": (lambda x: x[0, 0], lambda t: t),
    "empty": (lambda x: x[:0], lambda t: t),
    "subclass": (lambda x: x.as_subclass(Tagged), lambda t: t.as_subclass(torch.Tensor)),
    "wrapper": (Wrapper, lambda t: t.inner),
    "expanded": (lambda x: x[:1].expand(6, 5), lambda t: t),
    "negated view": (lambda x: torch.complex(x, x).conj().imag, lambda t: t.resolve_neg()),
    "inference": (lambda x: torch.inference_mode()(lambda: x * 2)(), lambda t: t),
}


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_tensors_are_measured_by_the_numbers_they_hold(name, full) -> None:
    make, densify = UNUSUAL[name]
    unusual = make(torch.randn(4, 5))
    exact = numpy_reference.measure(densify(unusual))
    found = read(measure(unusual, full=full)).moments
    assert found.numel == exact.numel
    assert found.zeros == (exact.zeros if full else None)
    assert found.abs_max == pytest.approx(exact.abs_max, rel=1e-6)
    assert found.mean == pytest.approx(exact.mean, rel=1e-6, abs=1e-7)
    assert found.second_moment == pytest.approx(exact.second_moment, rel=1e-6, nan_ok=True)


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (lambda: torch.empty(3, device="meta"), "meta tensor"),
        (lambda: torch.ones(3).as_subclass(Stubborn), "a Stubborn of layout .* no aten"),
    ],
)
def test_what_holds_no_numbers_is_refused_with_a_reason(tensor, reason) -> None:
    with pytest.raises(Unmeasurable, match=reason):
        measure(tensor(), full=True)


def test_fake_tensors_are_refused() -> None:
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode():
        fake = torch.ones(3)
        with pytest.raises(Unmeasurable, match="no values"):
            measure(fake, full=True)


@pytest.fixture
def two_ranks() -> Iterator[DeviceMesh]:
    """Stand for one of two processes, without the other."""
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    yield init_device_mesh("cpu", (2,))
    torch.distributed.destroy_process_group()


def test_a_distributed_tensor_is_measured_by_its_local_part(two_ranks) -> None:
    local = torch.randn(4, 5)
    sharded = DTensor.from_local(local, two_ranks, [Shard(0)])
    assert read(measure(sharded, full=True)) == read(measure(local, full=True))


def test_a_partial_sum_of_a_distributed_tensor_is_refused(two_ranks) -> None:
    summand = DTensor.from_local(torch.ones(4), two_ranks, [Partial()])
    with pytest.raises(Unmeasurable, match="Partial placement: this rank holds only a summand"):
        measure(summand, full=True)


class TestQuiet:
    """Whatever is active around it, measuring gives the same numbers and is not seen."""

    @pytest.fixture
    def values(self) -> torch.Tensor:
        return torch.randn(50)

    @pytest.fixture
    def expected(self, values: torch.Tensor) -> Moments:
        return read(measure(values, full=True)).moments

    def test_autograd(self, values, expected) -> None:
        values.requires_grad_()
        assert read(measure(values * 1.0, full=True)).moments == expected
        assert read(measure(torch.nn.Parameter(values), full=True)).moments == expected

    def test_inference_mode(self, values, expected) -> None:
        with torch.inference_mode():
            assert read(measure(values, full=True)).moments == expected

    def test_autocast(self, values, expected) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert read(measure(values, full=True)).moments == expected

    def test_default_device(self, values, expected) -> None:
        with torch.device("meta"):
            assert read(measure(values, full=True)).moments == expected

    def test_dispatch_modes(self, values, expected) -> None:
        seen = []

        class Spy(TorchDispatchMode):
            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                seen.append(func)
                return func(*args, **(kwargs or {}))

        with Spy():
            assert read(measure(values, full=True)).moments == expected
        assert seen == []

    def test_functions_under_vmap(self, values) -> None:
        found = []

        def function(x: torch.Tensor) -> torch.Tensor:
            found.append(read(measure(x, full=True)).moments)
            return x * 2

        torch.vmap(function)(values.view(5, 10))
        assert found[0].numel == 50

    # torch's own rules of forward differentiation are scripted when they are first needed.
    @pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
    @pytest.mark.parametrize("transform", [torch.func.grad, torch.func.jacfwd])
    def test_functions_under_a_transform(self, values, expected, transform) -> None:
        found = []

        def function(x: torch.Tensor) -> torch.Tensor:
            found.append(read(measure(x, full=True)).moments)
            return x.square().sum()

        transform(function)(values)
        assert found[0].numel in (50, 2500)
        assert found[0].second_moment == pytest.approx(expected.second_moment, rel=1e-6)

    @pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
    def test_dual_tensors(self, values, expected) -> None:
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(values, torch.ones(50))
            assert read(measure(dual, full=True)).moments == expected

    def test_the_grad_mode_stays(self, values) -> None:
        with torch.no_grad(), torch.autocast("cpu"):
            measure(values, full=True)
            assert not torch.is_grad_enabled()
            assert torch.is_autocast_enabled("cpu")
