"""Large tensors read in part: the run stays what it is, the numbers come with an error bar."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from tests.probe.scenario import score
from tests.probe.untouched import describe_run
from varprobe import InvalidArgumentError, Monitor, Probe, Recording, analyze, predict

ALL = ("activation", "gradient", "weight", "weight_gradient")


def build() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(64, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Dropout(0.1), nn.Linear(512, 8)
    )


def step(model: nn.Module, rows: int = 200) -> torch.Tensor:
    torch.manual_seed(1)
    output = model(torch.randn(rows, 64))
    score(output).backward()
    return output


@pytest.mark.parametrize("stats", ["moments", "full"])
def test_the_run_is_bitwise_the_bare_one(stats) -> None:
    bare, probed = build(), build()
    expected = describe_run(bare, lambda: step(bare))

    def drive() -> torch.Tensor:
        with Probe(probed, stats=stats, signals=ALL, max_elements=1024):
            return step(probed)

    assert describe_run(probed, drive) == expected


def test_moments_are_within_their_error_of_the_whole() -> None:
    model = build().eval()
    with Probe(model, signals=ALL) as whole:
        step(model), step(model)
    with Probe(model, signals=ALL, max_elements=8192) as probe:
        step(model), step(model)
    sampled = 0
    for found, expected in zip(probe.recording, whole.recording, strict=True):
        assert (found.site, found.depth) == (expected.site, expected.depth)
        assert found.moments.numel == expected.moments.numel
        sampled += found.sampling is not None
        if found.sampling is None:
            assert found.moments == expected.moments
            assert (found.mean_error, found.second_moment_error) == (0.0, 0.0)
            continue
        times = 1 if found.site.signal == "weight" else 2
        assert found.sampling.numel == times * 8192
        departure = abs(found.moments.second_moment - expected.moments.second_moment)
        assert 0 < departure < 4.5 * found.second_moment_error
        assert found.second_moment_error < 0.1 * found.moments.second_moment
        assert abs(found.moments.mean - expected.moments.mean) < 4.5 * found.mean_error
    # Four wide outputs, their gradients, and the first weight with its gradient.
    assert sampled == 4 + 4 + 2


def test_errors_survive_merging_and_saving(tmp_path) -> None:
    model = build().eval()
    recordings = []
    for rows in (200, 200, 5):
        with Probe(model, max_elements=8192, signals=("activation",)) as probe:
            step(model, rows)
        recordings.append(probe.recording)
    merged = recordings[0].merge(*recordings[1:])
    record, *parts = (r.records[0] for r in (merged, *recordings))
    assert record.sampling.numel == 8192 + 8192 + 5 * 512
    total = sum((p.second_moment_error * p.moments.numel) ** 2 for p in parts)
    assert (record.second_moment_error * record.moments.numel) ** 2 == pytest.approx(total)
    merged.save(tmp_path / "recording.json")
    assert Recording.load(tmp_path / "recording.json") == merged


def test_scaled_gradients_have_the_error_of_unscaled_ones() -> None:
    model = build().eval()
    with Probe(model, max_elements=4096) as plain:
        step(model)
    with Probe(model, max_elements=4096, grad_scale=512.0) as scaled:
        (512.0 * score(model(torch.randn(200, 64, generator=seeded())))).backward()
    for one, two in zip(plain.recording, scaled.recording, strict=True):
        assert one.second_moment_error == two.second_moment_error


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def test_a_monitor_samples_too() -> None:
    model = build()
    with Monitor(model, every=1, max_elements=4096) as monitor:
        step(model), step(model)
    assert monitor.recording.meta["max_elements"] == 4096
    sampled = [r for r in monitor.recording if r.sampling is not None]
    assert {r.step for r in sampled} == {0, 1}


def test_theory_allows_for_the_error() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(256, 256)), torch.randn(4096, 256)
    with Probe(model, stats="full", max_elements=1024) as probe:
        model(x)
    with Probe(model, stats="full") as whole:
        model(x)
    prediction = predict(model, x)
    sampled, exact = (analyze(p.recording, prediction).sites for p in (probe, whole))
    one, two = (
        next(s for s in sites if s.site.signal == "activation") for sites in (sampled, exact)
    )
    relative = one.first.second_moment_error / one.second_moment
    assert relative > 0.02
    # The difference of both is the sample's, so is that of their scores, in units of its error.
    assert abs(one.z - two.z) < 6
    # The local test needs all of the input and of the output.
    assert two.gain is not None
    assert one.gain is None


def test_it_reads_less() -> None:
    model = nn.Sequential(nn.Identity())
    x = torch.randn(2**23)

    def cost(**options: object) -> float:
        with Probe(model, stats="full", signals=("activation",), **options):
            start = time.process_time()
            model(x)
            return time.process_time() - start

    pairs = [(cost(), cost(max_elements=2**16)) for _ in range(5)]
    # Eight million elements against 65 thousand: 40 ms against 1.
    assert sorted(whole / part for whole, part in pairs)[2] > 5


def test_too_few_are_refused_before_the_run() -> None:
    for build_one in (Probe, Monitor):
        with pytest.raises(InvalidArgumentError, match="max_elements is 10"):
            build_one(build(), max_elements=10)
