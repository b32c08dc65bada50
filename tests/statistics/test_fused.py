"""The kernels of Triton: what they launch, how they share the work, and that they compile.

`test_measure` holds their numbers against the reference, with all the others.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.reference import moments as numpy_reference
from tests.statistics.accuracy import assert_accurate
from tests.statistics.forms import INTERPRETER, TRITON, load_fused
from varprobe.statistics import reference
from varprobe.statistics.device import DeviceReading

ROOT = Path(__file__).parents[2]


@pytest.fixture
def fused() -> ModuleType:
    return load_fused()


def read(fused: ModuleType, values: torch.Tensor) -> Any:
    return DeviceReading(*fused.measure(values, full=True), True).read()


class Operations(TorchDispatchMode):
    """Notes the operations of torch."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.add(func._schema.name)
        return func(*args, **(kwargs or {}))


class _Launches:
    """Stands for a kernel and notes how many programs it is launched with."""

    def __init__(self, kernel: Any, programs: list[int]) -> None:
        self.kernel, self.programs = kernel, programs

    def __getitem__(self, grid: tuple[int]) -> Any:
        self.programs += grid
        return self.kernel[grid]


@contextmanager
def noting_launches(fused: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    programs: list[int] = []
    with monkeypatch.context() as patch:
        for name in ("sum_up", "join"):
            kernel = getattr(fused.fused_kernels, name)
            patch.setattr(fused.fused_kernels, name, _Launches(kernel, programs))
        yield programs


@INTERPRETER
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
class TestSharing:
    def test_small_tensors_take_one_launch_and_others_two(self, fused, monkeypatch, dtype) -> None:
        share = fused.TILES * fused.ROWS * fused.ROW_BYTES // dtype.itemsize
        with noting_launches(fused, monkeypatch) as programs:
            for numel in (0, 1, share, share + 1, 2 * share + 1):
                fused.measure(torch.zeros(numel, dtype=dtype), full=False)
        assert programs == [1, 1, 1, 2, 1, 3, 1]

    def test_every_element_is_read_once_wherever_work_is_divided(self, fused, dtype) -> None:
        tile = fused.ROWS * fused.ROW_BYTES // dtype.itemsize
        share = fused.TILES * tile
        for numel in (1, 2, 127, tile - 1, tile, tile + 1, share, share + 1, 2 * share + tile + 7):
            values = (torch.randn(numel).abs_() + 1.0).to(dtype)
            values[-1] = 99.0
            found = read(fused, values)
            assert_accurate(found.moments, numpy_reference.measure(values))
            assert found.exponents == reference.count_exponents(values)

    def test_programs_are_limited(self, fused, monkeypatch, dtype) -> None:
        monkeypatch.setattr(fused, "MAX_PROGRAMS", 2)
        monkeypatch.setattr(fused, "TILES", 1)
        values = torch.randn(7 * fused.ROWS * fused.ROW_BYTES // dtype.itemsize + 5).to(dtype)
        with noting_launches(fused, monkeypatch) as programs:
            found = read(fused, values)
        assert programs == [2, 1]
        assert_accurate(found.moments, numpy_reference.measure(values))


@INTERPRETER
class TestArithmetic:
    def test_torch_allocates_and_computes_nothing(self, fused, monkeypatch) -> None:
        for name in ("sum_up", "join"):
            monkeypatch.setattr(fused.fused_kernels, name, mock.MagicMock())
        with Operations() as operations:
            fused.measure(torch.randn(70_000), full=True)
        assert operations.seen == {"aten::empty", "aten::zeros", "aten::slice", "aten::randn"}

    def test_the_tensor_is_not_changed(self, fused) -> None:
        values = torch.randn(5000)
        before = values.clone()
        fused.measure(values, full=True)
        assert torch.equal(values, before)

    def test_the_same_memory_gives_the_same_bits(self, fused) -> None:
        values = torch.randn(70_000)
        first, second = (fused.measure(values, full=True) for _ in range(2))
        assert torch.equal(first[0], second[0])
        assert torch.equal(first[1], second[1])

    def test_a_lane_may_begin_with_what_is_not_finite(self, fused) -> None:
        # The first rows have no number to take for a shift, and those after them a large mean.
        values = torch.randn(40_000, dtype=torch.float64) * 1e-3 + 1e6
        values[:15_000] = math.nan
        values[15_000:20_000] = -math.inf
        found = read(fused, values)
        assert_accurate(found.moments, numpy_reference.measure(values))

    def test_lanes_without_any_number_merge_with_large_ones(self, fused) -> None:
        values = torch.full((40_000,), math.nan, dtype=torch.float64)
        values[-3:] = torch.tensor([1e200, -1e200, 2e200], dtype=torch.float64)
        with pytest.warns(RuntimeWarning, match="overflow"):  # numpy's, of the interpreter
            found = read(fused, values)
        assert (found.finite, found.nan, found.abs_max) == (3, 39_997, 2e200)
        assert found.mean == pytest.approx(2e200 / 3)
        # As in two passes: a square of 1e400 is beyond float64.
        assert found.m2 == reference.measure(values, zeros=False).m2 == math.inf

    def test_a_first_number_far_from_the_others_costs_no_digit(self, fused) -> None:
        # The bound of the docstring: k-fold, for k numbers in a lane.
        values = torch.randn(300_000, dtype=torch.float64)
        values[:2048] = 1e7
        found = read(fused, values)
        exact = numpy_reference.measure(values)
        assert found.m2 == pytest.approx(exact.m2, rel=1e-12)


@TRITON
def test_the_kernels_compile_for_both_kinds_of_device(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    result = subprocess.run(
        [sys.executable, "-m", "tests.statistics.fused_compilation"],
        cwd=ROOT,
        env={**environment, "TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    compiled = json.loads(result.stdout)
    assert set(compiled["kinds"]) == {"cubin", "hsaco"}
    # Floating-point sums in the order of arrival would change from run to run.
    assert set(compiled["atomics"]) == {"u32", "u64"}
    # Subnormal numbers are numbers.
    assert not compiled["flushes"]
    # Each thread loads 16 bytes at once.
    assert set(compiled["loads"]) == {"v4.b32", "v2.b64"}
