"""The laws of the literature, seen through `predict`."""

import math
import resource
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import varprobe as vp
from varprobe.errors import UnknownNameError, UnsupportedModelError
from varprobe.recording import Site
from varprobe.theory import predict_silently

DEPTH = 30

LAW = 0.005
"""The deviation from a closed law that is allowed; most of it is float32 above 256 positions."""


def mlp(width=64, depth=DEPTH, act=nn.ReLU):
    return lambda: nn.Sequential(
        *(layer for _ in range(depth) for layer in (nn.Linear(width, width), act()))
    )


def conv(channels=16, depth=DEPTH, mode="circular"):
    def build():
        layers = []
        for index in range(depth):
            before = channels if index else 3
            layers += [nn.Conv2d(before, channels, 3, padding=1, padding_mode=mode), nn.ReLU()]
        return nn.Sequential(*layers)

    return build


def read(prediction, kind, signal="activation"):
    """Second moments of the layers of one class, in order of depth."""
    return [e.second_moment for e in prediction if e.kind == kind and e.site.signal == signal]


NETS = {
    "mlp": (mlp(), torch.randn(8, 64), "Linear", 64),
    "conv": (conv(), torch.randn(4, 3, 8, 8), "Conv2d", 16 * 9),
}


@pytest.mark.parametrize("net", NETS)
class TestRectifierLaws:
    def test_kaiming_stays(self, net):
        build, x, kind, _ = NETS[net]
        prediction = vp.predict(build, x, init="kaiming_normal")
        moments = read(prediction, kind)
        assert moments[0] == pytest.approx(2 * float(x.square().mean()), rel=LAW)
        assert moments == pytest.approx([moments[0]] * DEPTH, rel=LAW)
        gradients = read(prediction, kind, "gradient")
        assert gradients == pytest.approx([0.5] * DEPTH, rel=LAW)

    def test_xavier_halves(self, net):
        build, x, kind, _ = NETS[net]
        prediction = vp.predict(build, x, init="xavier_normal")
        moments, gradients = read(prediction, kind), read(prediction, kind, "gradient")
        # From the second layer on: the first of the convolutions has 3 channels.
        expected = [moments[1] * 0.5**i for i in range(DEPTH - 1)]
        assert moments[1:] == pytest.approx(expected, rel=LAW)
        assert gradients[::-1] == pytest.approx([0.5 ** (i + 1) for i in range(DEPTH)], rel=LAW)

    def test_default_falls_by_six_to_the_fixed_point_of_its_biases(self, net):
        build, x, kind, fan_in = NETS[net]
        prediction = vp.predict(build, x, init="default")
        moments, gradients = read(prediction, kind), read(prediction, kind, "gradient")
        bias = 1 / (3 * fan_in)
        for before, after in pairwise(moments):
            assert after == pytest.approx(before / 6 + bias, rel=LAW)
        assert moments[-1] == pytest.approx(bias / (1 - 1 / 6), rel=LAW)
        for above, below in zip(gradients[:0:-1], gradients[-2::-1], strict=True):
            assert below == pytest.approx(above / 6, rel=LAW)


def test_he_2015_attenuation_of_std_001():
    # Nine convolutions conv2 ... conv10 with 64, 128, 128, 256, 256, 512 x 4 filters: the gradient
    # under std 0.01 is 1/(5.9 * 4.2² * 2.9² * 2.1⁴) of He's; with unrounded stds 1/16,731.
    widths = [64, 64, 128, 128, 256, 256, 512, 512, 512, 512]

    def build():
        layers, before = [], 3
        for width in widths:
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
            before = width
        return nn.Sequential(*layers)

    ratios = []
    for init in ("kaiming_normal(mode='fan_out')", "normal(std=0.01)"):
        prediction = vp.predict(build, torch.randn(1, 3, 8, 8), init=init)
        below = prediction.find(Site(module="1", signal="gradient")).second_moment
        above = prediction.find(Site(module="18", signal="gradient")).second_moment
        ratios.append(below / above)
    unrounded = math.prod(math.sqrt(2 / (9 * width)) / 0.01 for width in widths[1:])
    assert math.sqrt(ratios[0] / ratios[1]) == pytest.approx(unrounded, rel=0.01)


def test_batch_norm_and_relu_multiply_gradients_by_pi_over_pi_minus_1():
    # Yang et al. 2019, at large batches: 1.4669 a layer. 256 samples leave corrections of 1/256.
    def build():
        return nn.Sequential(
            *(
                layer
                for _ in range(4)
                for layer in (nn.Linear(64, 64, bias=False), nn.BatchNorm1d(64), nn.ReLU())
            )
        )

    x = torch.empty(4096, 64, device="meta")
    gradients = read(vp.predict(build, x, init="kaiming_normal"), "Linear", "gradient")
    # The input of the first layer is no rectified one.
    for below, above in pairwise(gradients[1:]):
        assert below / above == pytest.approx(math.pi / (math.pi - 1), rel=0.01)


def test_first_layer_is_exact_for_the_numbers_given():
    # Averaged over the weights, with the input as it is: v · Σ over each window, zeros outside.
    x = torch.randn(2, 3, 6, 6) * torch.rand(6, 6) + 1
    ones = torch.ones(1, 3, 3, 3)
    windows = F.conv2d(x.double().square(), ones.double(), padding=1)
    prediction = vp.predict(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1)), x, init="kaiming_normal")
    expected = float(windows.mean()) * 2 / 27
    assert prediction.find(Site(module="0")).second_moment == pytest.approx(expected, rel=1e-5)


def test_second_moment_is_variance_and_mean():
    prediction = vp.predict(mlp(depth=1), torch.randn(4, 64), init="kaiming_normal")
    row = prediction.find(Site(module="1"))
    # After a ReLU Var/E[x²] = 1 - 1/π; one sample of each norm makes it an average over samples.
    assert row.variance / row.second_moment == pytest.approx(1 - 1 / math.pi, rel=0.01)
    assert row.second_moment == pytest.approx(row.variance + row.mean**2)


def test_sites_are_those_that_the_probe_records():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.body = nn.LayerNorm(16), nn.Linear(16, 16)
            self.act = nn.ReLU(inplace=True)

        def forward(self, x):
            first = self.body(self.norm(x))
            second = self.body(self.act(first))
            return {"first": first, "both": (second, second * 2)}

    model, x = Model(), torch.randn(4, 16)
    recording = vp.profile(model, x)
    prediction = vp.predict(model, x)
    assert {record.site for record in recording} == {e.site for e in prediction}
    depths = {record.site: (record.depth, record.kind) for record in recording}
    assert depths == {e.site: (e.depth, e.kind) for e in prediction}


def test_a_container_has_the_numbers_of_its_last_child():
    prediction = vp.predict(mlp(depth=2), torch.randn(4, 64), init="kaiming_normal")
    for signal in ("activation", "gradient"):
        root = prediction.find(Site(module="", signal=signal))
        last = prediction.find(Site(module="3", signal=signal))
        assert root.second_moment == last.second_moment


def test_functional_calls_are_seen_like_modules():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 3), nn.Linear(8 * 9, 4)

        def forward(self, x):
            return self.b(torch.flatten(F.max_pool2d(F.relu(self.a(x)), 2), 1))

    torch.manual_seed(3)
    functional = Functional()
    modules = nn.Sequential(
        functional.a, nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten(), functional.b
    )
    x = torch.randn(2, 3, 8, 8)
    first, second = vp.predict(functional, x), vp.predict(modules, x)
    for site, twin in ((Site(module="b"), Site(module="4")), (Site(module="a"), Site(module="0"))):
        assert first.find(site).second_moment == second.find(twin).second_moment


def test_a_hand_written_activation_is_the_built_in_one():
    class HandWritten(nn.Module):
        def forward(self, x):
            return 0.5 * x * (1 + torch.tanh(0.7978845608028654 * (x + 0.044715 * x**3)))

    x = torch.randn(4, 32)
    torch.manual_seed(0)
    layers = nn.Linear(32, 32), nn.Linear(32, 32)
    twins = [
        vp.predict(nn.Sequential(layers[0], act, layers[1]), x)
        for act in (HandWritten(), nn.GELU("tanh"))
    ]
    for row, twin in zip(*twins, strict=True):
        assert row.second_moment == pytest.approx(twin.second_moment, rel=1e-6)
        assert row.log_std == pytest.approx(twin.log_std, rel=1e-4)


def test_pre_norm_residual_branches_add_up():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.branch = nn.Sequential(
                nn.LayerNorm(64), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)
            )

        def forward(self, x):
            return x + self.branch(x)

    x = torch.randn(8, 64)
    prediction = vp.predict(
        lambda: nn.Sequential(*(Block() for _ in range(4))), x, init="kaiming_normal"
    )
    moments = read(prediction, "Block")
    # Kaiming weights: the norm makes 1, each branch adds 2.
    start = float(x.square().mean())
    assert moments == pytest.approx([start + 2 * (i + 1) for i in range(4)], rel=1e-3)
    assert {e.status for e in prediction} == {"exact"}


def test_meta_inputs_are_standard_normals():
    prediction = vp.predict(mlp(depth=2), torch.empty(4, 64, device="meta"), init="kaiming_normal")
    assert read(prediction, "Linear") == pytest.approx([2.0, 2.0])


def test_a_huge_model_takes_no_memory():
    def build():
        return nn.Sequential(*(nn.Linear(200_000, 200_000) for _ in range(3)))  # 120 G parameters

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    prediction = vp.predict(build, torch.empty(4, 200_000, device="meta"), init="kaiming_normal")
    assert read(prediction, "Linear") == pytest.approx([2.0, 4.0, 8.0])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


def test_weight_rows_hold_the_law_and_its_scatter():
    named = vp.predict(mlp(depth=1), torch.randn(2, 64), init="kaiming_normal")
    row = named.find(Site(module="0", output="weight", signal="weight"))
    assert row.second_moment == pytest.approx(2 / 64)
    assert row.log_std == pytest.approx(math.sqrt(2 / 64**2))
    model = mlp(depth=1)()
    measured = vp.predict(model, torch.randn(2, 64))
    row = measured.find(Site(module="0", output="weight", signal="weight"))
    assert row.second_moment == pytest.approx(float(model[0].weight.detach().square().mean()))
    assert row.log_std == 0


def test_loss_false_predicts_no_gradients():
    prediction = vp.predict(mlp(depth=2), torch.randn(2, 64), init="default", loss=False)
    assert {e.site.signal for e in prediction} == {"activation", "weight"}


def test_without_draws_a_loss_of_ones_own_leaves_gradients_unknown_and_says_why():
    prediction = predict_silently(
        mlp(depth=1), torch.randn(2, 64), loss=lambda out: out.sum(), draws=0
    )
    row = prediction.find(Site(module="0", signal="gradient"))
    assert row.status == "unknown"
    assert "loss" in row.reason
    assert math.isnan(row.second_moment)


def test_a_callable_input_is_asked_for_its_first_draw():
    inputs = {0: torch.ones(2, 64), 1: torch.zeros(2, 64)}
    prediction = vp.predict(mlp(depth=1), inputs.__getitem__, init="kaiming_normal")
    assert read(prediction, "Linear") == pytest.approx([2.0])


def test_frames_and_reprs_speak():
    prediction = vp.predict(mlp(depth=1), torch.randn(2, 64))
    frame = prediction.to_frame()
    assert list(frame["status"].unique()) == ["exact"]
    assert len(frame) == len(prediction)
    assert repr(prediction).startswith("<Prediction for Sequential: 2 weights, 3 activations")


def test_an_unknown_initialization_is_refused():
    with pytest.raises(UnknownNameError, match="kaiming_normal"):
        vp.predict(mlp(depth=1), torch.randn(2, 64), init="kaiming_norml")


def test_a_builder_that_builds_nothing_is_refused():
    with pytest.raises(UnsupportedModelError, match="NoneType"):
        vp.predict(lambda: None, torch.randn(2, 64))
