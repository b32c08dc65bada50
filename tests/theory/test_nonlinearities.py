import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from varprobe.errors import InvalidArgumentError, UnknownNameError
from varprobe.theory.callables import adapt, differentiate, find_kinks
from varprobe.theory.nonlinearities import NONLINEARITIES, from_module, get_nonlinearity

MODULES = [
    (nn.CELU(2.0), "celu(alpha=2.0)"),
    (nn.ELU(0.5), "elu(alpha=0.5)"),
    (nn.GELU(), "gelu"),
    (nn.GELU(approximate="tanh"), "gelu(approximate='tanh')"),
    (nn.Hardsigmoid(), "hardsigmoid"),
    (nn.Hardswish(), "hardswish"),
    (nn.Hardtanh(-2.0, 0.5), "hardtanh(min_val=-2.0, max_val=0.5)"),
    (nn.Identity(), "identity"),
    (nn.LeakyReLU(0.2), "leaky_relu(negative_slope=0.2)"),
    (nn.Mish(), "mish"),
    (nn.PReLU(), "prelu(negative_slope=0.25)"),
    (nn.PReLU(8, init=0.1, dtype=torch.float64), "prelu(negative_slope=0.1)"),
    (nn.PReLU(8, init=0.1, device="meta"), "prelu(negative_slope=0.1)"),
    (nn.ReLU(), "relu"),
    (nn.ReLU6(), "relu6"),
    (nn.SELU(), "selu"),
    (nn.SiLU(), "silu"),
    (nn.Sigmoid(), "sigmoid"),
    (nn.Softplus(beta=2.0), "softplus(beta=2.0)"),
    (nn.Softsign(), "softsign"),
    (nn.Tanh(), "tanh"),
]


@pytest.mark.parametrize(("module", "expected"), MODULES)
def test_a_module_gives_its_nonlinearity(module, expected):
    phi = from_module(module)
    assert repr(phi) == expected
    assert repr(get_nonlinearity(module)) == expected
    if not any(parameter.is_meta for parameter in module.parameters()):
        x = torch.linspace(-5, 5, 88, dtype=torch.float64).reshape(11, 8)
        assert phi(x) == pytest.approx(module.double()(x).detach().numpy(), rel=1e-12, abs=1e-14)


class Shifted(nn.ReLU):
    def forward(self, x):
        return super().forward(x - 1)


class Renamed(nn.ReLU):
    pass


def test_a_subclass_counts_only_with_its_parents_forward():
    assert repr(from_module(Renamed())) == "relu"
    assert from_module(Shifted()) is None
    assert get_nonlinearity(Shifted()).kinks == (1.0,)


class ReLU(nn.Module):
    def forward(self, x):
        return -x


@pytest.mark.parametrize("module", [nn.Linear(2, 2), nn.Softmax(dim=-1), nn.RReLU(), ReLU(), 3])
def test_what_is_no_known_elementwise_module_gives_none(module):
    assert from_module(module) is None


def test_a_prelu_whose_channels_differ_is_no_one_function():
    module = nn.PReLU(2)
    with torch.no_grad():
        module.weight[1] = 0.5
    assert from_module(module) is None


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (np.tanh, "tanh"),
        (torch.tanh, "tanh"),
        (F.gelu, "gelu"),
        (lambda x: x * torch.sigmoid(x), "silu"),
        (lambda x: x.clamp(min=0), "relu"),
        (F.hardswish, "hardswish"),
        (F.elu, "elu"),
        (lambda x: np.clip(x, -1, 1), "hardtanh"),
        (F.selu, "selu"),
    ],
)
def test_a_callable_has_the_integrals_of_the_named_one(function, name):
    phi, named = get_nonlinearity(function), NONLINEARITIES[name]()
    q = np.array([1e-4, 1.0, 100.0])
    # Kinks are known to 1e-11 and derivatives to 1e-13 of the function's size.
    for integral in ("second_moment", "derivative_second_moment", "derivative_fourth_moment"):
        exact = getattr(named, integral)(q)
        assert getattr(phi, integral)(q) == pytest.approx(exact, rel=1e-10), integral
    rho = np.linspace(-1, 1, 9)
    assert phi.pair_derivative_moment(1.0, 2.0, rho) == pytest.approx(
        named.pair_derivative_moment(1.0, 2.0, rho), rel=1e-9, abs=1e-10
    )


def test_a_given_derivative_and_given_kinks_are_taken():
    phi = get_nonlinearity(np.abs, derivative=np.sign, kinks=[0])
    assert phi.kinks == (0.0,)
    assert phi.derivative is not None
    assert float(phi.derivative_second_moment(1.0)) == pytest.approx(1.0, rel=1e-13)
    assert repr(phi) == "absolute"


def test_a_nonlinearity_is_returned_as_it_is():
    phi = get_nonlinearity("tanh")
    assert get_nonlinearity(phi) is phi


def test_an_unknown_name_lists_and_suggests():
    with pytest.raises(
        UnknownNameError, match=r"no nonlinearity named 'rleu'. Did you mean 'relu'"
    ):
        get_nonlinearity("rleu")


def test_parameters_that_do_not_fit_are_refused():
    with pytest.raises(InvalidArgumentError, match=r"relu takes no parameters, but .*slope"):
        get_nonlinearity("relu", negative_slope=0.1)
    with pytest.raises(InvalidArgumentError, match=r"elu takes alpha, but .*'beta'"):
        get_nonlinearity("elu(beta=2)")
    with pytest.raises(InvalidArgumentError, match=r"for example 'elu\(alpha=0.5\)'"):
        get_nonlinearity("elu(2)")


def test_parameters_may_stand_in_the_name():
    assert repr(get_nonlinearity("gelu(approximate='tanh')")) == "gelu(approximate='tanh')"


def test_what_is_neither_name_nor_module_nor_callable_is_refused():
    with pytest.raises(TypeError, match=r"a name, a module or a callable of one array, got 3"):
        get_nonlinearity(3)


def test_a_callable_that_is_not_elementwise_is_refused():
    with pytest.raises(TypeError, match="maps each element to one number"):
        get_nonlinearity(np.sum)
    with pytest.raises(TypeError, match="neither a numpy array nor a torch tensor"):
        get_nonlinearity(lambda x: x.nothing)


@pytest.mark.parametrize(
    ("function", "kinks"),
    [
        (np.tanh, ()),
        (lambda x: np.tanh(30 * x), ()),
        (np.exp, ()),
        (np.abs, (0.0,)),
        (lambda x: np.where(x > 0.123456, (x - 0.123456) ** 2, 0), (0.123456,)),
        (lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))), (0.0,)),
        (lambda x: np.round(x), tuple(np.arange(-23.5, 24))),
        (lambda x: np.clip(x, -1 / 3, 2.5), (-1 / 3, 2.5)),
    ],
)
def test_kinks_are_found_where_they_are(function, kinks):
    # A jump of the second derivative is lost in rounding a little earlier than one of the first.
    assert find_kinks(function) == pytest.approx(kinks, abs=1e-6)


def test_a_derivative_does_not_cross_a_kink():
    x = np.array([-1 - 1e-9, -1 + 1e-9, 0.0, 1 - 1e-9, 1 + 1e-9, 1e5])
    slope = differentiate(lambda x: np.clip(x, -1, 1), [-1.0, 1.0])(x)
    assert slope == pytest.approx([0, 1, 1, 1, 0, 0], abs=1e-12)


def test_adapting_a_torch_callable_leaves_no_graph():
    weight = torch.ones(1, dtype=torch.float64, requires_grad=True)
    adapted = adapt(lambda x: torch.tanh(weight * x))
    assert adapted(np.array([0.5])) == pytest.approx(np.tanh(0.5), rel=1e-15)


def test_the_mathematics_needs_no_torch_and_no_scipy_until_it_runs():
    code = (
        "import sys, varprobe.theory.mean_field as m, varprobe.theory.kaiming\n"
        "assert not {'torch', 'scipy', 'matplotlib', 'pandas'} & set(sys.modules)\n"
        "m.solve_mean_field('silu', sigma_w2=2.0, sigma_b2=0.1)\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
