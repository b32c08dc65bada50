import pytest
import torch
from hypothesis import given, strategies as st

from varprobe.errors import MissingRuleError
from varprobe.theory.layout import Axis, Layout, Role

IMAGE = Layout.of([Role.SAMPLE, Role.FEATURE, Role.POSITION, Role.POSITION], [4, 6, 2, 3])


def test_flattening_and_back_is_the_identity():
    flat = IMAGE.view([4, 36])
    assert flat.shape == (4, 36)
    assert flat.positions_of(1) == 6
    assert flat.view([4, 6, 2, 3]) == IMAGE


@given(st.permutations([4, 6, 2, 3]))
def test_views_keep_the_number_of_indices_of_each_role(shape):
    try:
        viewed = IMAGE.view(shape)
    except MissingRuleError:
        return
    for role in Role:
        assert viewed.count(role) == IMAGE.count(role)


def test_a_cut_across_an_axis_is_refused():
    with pytest.raises(MissingRuleError, match="cuts an axis"):
        Layout.of([Role.FEATURE, Role.POSITION], [6, 2]).view([4, 3])


def test_a_split_axis_keeps_its_role():
    heads = Layout.of([Role.SAMPLE, Role.FEATURE], [4, 6]).view([4, 2, 3])
    assert heads.dims[1] == (Axis(Role.FEATURE, 2),)
    assert heads.dims[2] == (Axis(Role.FEATURE, 3),)


def test_permuting_tells_where_each_position_came_from():
    layout, index = IMAGE.permute([0, 3, 2, 1])
    assert layout.shape == (4, 3, 2, 6)
    values = torch.arange(6).view(2, 3)
    assert torch.equal(values.reshape(-1)[index], values.T.reshape(-1))


def test_sizes_of_one_have_no_axis():
    layout = Layout.of([Role.SAMPLE, Role.FEATURE], [1, 5])
    assert layout.dims[0] == ()
    assert layout.shape == (1, 5)


def test_positions_cannot_be_numbered_where_they_mix_with_features():
    with pytest.raises(MissingRuleError, match="mixes positions"):
        IMAGE.view([4, 36]).index_positions()
