"""Readings stay on their device, in the order of its streams, until somebody reads them."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import reduce
from types import ModuleType, SimpleNamespace

import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn

from tests.reference import moments as numpy_reference
from tests.statistics.accuracy import assert_accurate
from tests.statistics.forms import INTERPRETER, load_fused
from tests.statistics.waiting import HostWaited, no_waiting
from varprobe import Probe, Recording, VarprobeWarning
from varprobe.observation import ledger, parameters
from varprobe.statistics import Unmeasurable, device, masked, streams
from varprobe.statistics.device import DeviceReading
from varprobe.statistics.quiet import everything_off
from varprobe.statistics.reading import HostReading
from varprobe.statistics.tensors import to_dense


def load_masked() -> ModuleType:
    return masked


@pytest.fixture(params=[load_masked, pytest.param(load_fused, marks=INTERPRETER)])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Let `device.measure` use this form also for tensors on the CPU."""
    chosen: ModuleType = request.param()
    choice = chosen.MAX_ELEMENTS, chosen.measure
    monkeypatch.setattr(device, "_choose", lambda *_: choice)
    return chosen


def measure(values: torch.Tensor, *, implicit_zeros: int = 0, full: bool = True) -> DeviceReading:
    return device.measure(values, implicit_zeros=implicit_zeros, full=full)


class TestReading:
    @given(seed=st.integers(0, 2**31), sizes=st.lists(st.integers(0, 9), min_size=2, max_size=5))
    def test_readings_merge_on_the_device_as_on_the_host(self, seed, sizes) -> None:
        generator = torch.Generator().manual_seed(seed)
        values = torch.randn(sum(sizes), generator=generator) + 3.0
        values[:1] = torch.inf
        readings = [measure(part, implicit_zeros=1) for part in values.split(sizes)]
        merged = reduce(DeviceReading.merge, readings).read()
        on_host = reduce(HostReading.merge, [reading.read() for reading in readings])
        assert_accurate(merged.moments, on_host.moments)
        assert merged.moments.zeros == on_host.moments.zeros
        assert merged.exponents == {e: n for e, n in on_host.exponents.items() if n}

    def test_without_histogram_it_merges_to_one_without(self) -> None:
        full, plain = measure(torch.ones(2)), measure(torch.ones(2), full=False)
        assert full.merge(plain).read().exponents is None

    def test_zeros_that_are_not_stored_count(self, form) -> None:
        stored = torch.randn(5) + 2.0
        found = measure(stored, implicit_zeros=4).read()
        assert_accurate(found.moments, numpy_reference.measure(torch.cat([stored, torch.zeros(4)])))
        assert found.zeros == 4
        assert sum(found.exponents.values()) == 5

    @pytest.mark.parametrize(
        "arrange",
        [
            lambda x: x.t(),
            lambda x: x[:, ::2],
            lambda x: x[::3].t(),
            lambda x: x[1:],
            lambda x: x.unsqueeze(0).expand(4, -1, -1),
            lambda x: x.view(2, 10, 3, 10).to(memory_format=torch.channels_last),
            lambda x: x.flip(0),
            lambda x: x[0, 0],
            lambda x: torch.view_as_real(torch.complex(x, x + 1).conj().resolve_conj()),
            lambda x: torch.complex(x, x + 1).conj().imag,
        ],
    )
    def test_the_order_in_memory_does_not_matter(self, form, arrange) -> None:
        values = arrange(torch.randn(20, 30))
        exact = numpy_reference.measure(values)
        assert_accurate(measure(values).read().moments, exact)

    def test_large_tensors_are_read_in_parts(self, form, monkeypatch) -> None:
        values = torch.randn(1000) + 5.0
        whole = measure(values).read()
        counted = []

        def count(part: torch.Tensor, *, full: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
            counted.append(len(part))
            return form.measure(part, full=full)

        monkeypatch.setattr(device, "_choose", lambda *_: (300, count))
        found = measure(values).read()
        assert counted == [300, 300, 300, 100]
        assert_accurate(found.moments, whole.moments)
        assert (found.zeros, found.exponents) == (whole.zeros, whole.exponents)

    def test_freed_memory_is_not_read(self, form) -> None:
        # On a device the process would lose it, and every tensor with it.
        values = torch.randn(50)
        values.untyped_storage().resize_(0)
        with pytest.raises(Unmeasurable, match="its storage was freed"):
            measure(values)


class TestChoice:
    """There is no device here: what is asked is which form would be taken on one."""

    @pytest.fixture(autouse=True)
    def forget(self) -> Iterator[None]:
        device._is_fusible.cache_clear()
        yield
        device._is_fusible.cache_clear()

    def choose(self, name: str) -> Callable[..., object]:
        return device._choose(torch.device(name), torch.float32, True)[1]

    def test_devices_without_cuda_have_torchs_operations(self, monkeypatch) -> None:
        monkeypatch.setattr(device, "_is_fusible", lambda *_: True)
        assert self.choose("xpu:0") is masked.measure
        assert self.choose("cpu") is masked.measure

    def test_without_triton_there_are_torchs_operations(self, monkeypatch) -> None:
        monkeypatch.setattr(device, "find_spec", lambda _: None)
        assert self.choose("cuda:0") is masked.measure

    @pytest.mark.usefixtures("no_cuda")
    def test_what_triton_cannot_compile_is_said_once(self, monkeypatch) -> None:
        pytest.importorskip("triton")

        def fail(*_: object, **__: object) -> None:
            raise RuntimeError("Failed to find C compiler.\nMore lines")

        monkeypatch.setattr(load_fused(), "measure", fail)
        with pytest.warns(
            VarprobeWarning, match=r"cuda:0: RuntimeError: Failed .*compiler\. Tensors"
        ):
            assert self.choose("cuda:0") is masked.measure
        assert self.choose("cuda:0") is masked.measure

    @pytest.mark.usefixtures("no_cuda")
    def test_where_it_compiles_tensors_are_read_once(self) -> None:
        pytest.importorskip("triton")
        assert self.choose("cuda:0") is load_fused().measure

    @pytest.fixture
    def no_cuda(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # The trial is made on the CPU.
        zeros = torch.zeros
        monkeypatch.setattr(torch, "zeros", lambda *size, device, **kw: zeros(*size, **kw))

    def test_triton_is_not_loaded_for_the_cpu(self) -> None:
        code = (
            "import sys, torch, varprobe as vp\n"
            "vp.profile(torch.nn.Linear(2, 2), torch.randn(3, 2))\n"
            "import varprobe.statistics.device\n"
            "assert 'triton' not in sys.modules"
        )
        subprocess.run([sys.executable, "-c", code], check=True)


class FakeStream:
    """Knows which streams it was told to wait for."""

    def __init__(self) -> None:
        self.awaited: list[FakeStream] = []

    def wait_stream(self, other: FakeStream) -> None:
        self.awaited.append(other)


class TestStreams:
    @pytest.fixture
    def now(self, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
        """Hold the current stream, and what was said to be used on which."""
        now = SimpleNamespace(stream=FakeStream(), used=[])
        for module in (device, streams):
            monkeypatch.setattr(module, "find_stream", lambda _: now.stream)
        note = lambda tensor, stream: now.used.append((tensor.data_ptr(), stream))  # noqa: E731
        monkeypatch.setattr(torch.Tensor, "record_stream", note)
        return now

    def test_on_one_stream_nothing_waits(self, now) -> None:
        first, second = measure(torch.ones(2)), measure(torch.ones(3))
        first.merge(second).divide(2.0).extrapolate(20).read()
        assert (now.stream.awaited, now.used) == ([], [])

    @pytest.mark.parametrize(
        "use",
        [
            lambda reading: reading.read(),
            lambda reading: reading.divide(2.0),
            lambda reading: reading.extrapolate(8),
            lambda reading: measure(torch.ones(3)).merge(reading),
            lambda reading: reading.merge(measure(torch.ones(3))),
        ],
    )
    def test_what_uses_a_reading_waits_for_the_stream_that_computes_it(self, now, use) -> None:
        reading, there = measure(torch.ones(2)), now.stream
        now.stream = FakeStream()
        use(reading)
        assert now.stream.awaited == [there]
        tensors = [reading.numbers, reading.bins]
        assert now.used == [(tensor.data_ptr(), now.stream) for tensor in tensors]

    def test_a_result_belongs_to_the_stream_that_computed_it(self, now) -> None:
        reading = measure(torch.ones(2))
        now.stream = FakeStream()
        assert reading.divide(2.0).stream is now.stream

    def test_a_device_without_streams_has_none(self) -> None:
        assert streams.find_stream(torch.device("meta")) is None


class TestWaiting:
    @pytest.mark.parametrize(
        "question",
        [
            lambda x: x.sum().item(),
            lambda x: bool(x.sum() > 0),
            lambda x: float(x[0]),
            lambda x: x.tolist(),
            lambda x: x.cpu(),
            lambda x: x.numpy(),
            lambda x: x[x > 0],
            lambda x: x.nonzero(),
            lambda x: x.long().abs().bincount(),
            lambda x: x.unique(),
            lambda x: torch.equal(x, x),
        ],
    )
    def test_questions_are_caught(self, question) -> None:
        values = torch.randn(4)
        with no_waiting(), pytest.raises(HostWaited):
            question(values)
        question(values)

    def test_so_are_those_behind_modes_that_are_switched_off(self) -> None:
        values = torch.ones(2)
        with no_waiting(), pytest.raises(HostWaited), everything_off(values):
            values.sum().item()

    @pytest.mark.parametrize("full", [False, True])
    def test_nothing_is_asked_before_the_reading_is_read(self, form, full) -> None:
        values = torch.randn(40, 50).t()
        with no_waiting():
            reading = measure(values, implicit_zeros=3, full=full).merge(measure(values, full=full))
            reading = reading.divide(2.0).extrapolate(5000)
        assert reading.read().finite == 5000
        with no_waiting(), pytest.raises(HostWaited):
            reading.read()


class Net(nn.Module):
    """Both kinds of layers, a normalization, an activation in place and a repeated call."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.relu, self.head = nn.ReLU(inplace=True), nn.Linear(4 * 36, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.relu(self.norm(self.conv(x))).flatten(1))


def train(model: nn.Module, steps: int = 2) -> list[torch.Tensor]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(6, 3, 8, 8)).square().mean().backward()
        optimizer.step()
    state = [*model.state_dict().values(), *(p.grad for p in model.parameters())]
    return [*state, torch.get_rng_state()]


def assert_same_recordings(first: Recording, second: Recording) -> None:
    assert len(first) == len(second) > 0
    for one, other in zip(first.records, second.records, strict=True):
        assert one.site == other.site
        assert_accurate(one.moments, other.moments)
        assert (one.moments.zeros, one.exponents) == (other.moments.zeros, other.exponents)


class TestProbe:
    """A whole training step, on the path that tensors of a device take."""

    @pytest.fixture
    def go_there(self, form, monkeypatch) -> Callable[[], None]:
        def measure_there(tensor: torch.Tensor, *, full: bool) -> DeviceReading:
            with everything_off(tensor):
                values, implicit_zeros = to_dense(tensor)
                return device.measure(values, implicit_zeros=implicit_zeros, full=full)

        def go() -> None:
            monkeypatch.setattr(ledger, "measure", measure_there)
            # Which give None for what is not on the CPU.
            monkeypatch.setattr("varprobe.probe.measure_linear_input", lambda *_: None)
            monkeypatch.setattr(parameters, "count_distinct_rows", lambda *_: None)

        return go

    @pytest.mark.parametrize("stats", ["moments", "full"])
    def test_the_host_never_waits_and_training_is_the_same(self, go_there, stats) -> None:
        model = Net()
        bare, host = copy.deepcopy(model), copy.deepcopy(model)
        signals = ("activation", "gradient", "weight", "weight_gradient")
        with Probe(host, stats=stats, signals=signals) as on_host:
            train(host)
        go_there()
        with no_waiting(), Probe(model, stats=stats, signals=signals) as probe:
            watched = train(model)
        for one, other in zip(watched, train(bare), strict=True):
            assert torch.equal(one, other)
        assert_same_recordings(probe.recording, on_host.recording)

    def test_a_question_of_the_model_is_caught(self, go_there) -> None:
        go_there()
        model = nn.Sequential(nn.Linear(2, 2))
        model.append(_Asks())
        with no_waiting(), Probe(model), pytest.raises(HostWaited):
            model(torch.randn(3, 2))


class _Asks(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / x.max().item()
