"""Groups of sites: sums against all pairs, and a long sequence against one that is told apart."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, strategies as st

import varprobe as vp
from tests.theory.transformers import GPT, Llama
from varprobe.errors import MissingRuleError
from varprobe.theory import grouped, grouped_layer
from varprobe.theory.explicit import ExplicitPairs
from varprobe.theory.grouped import GroupedPairs, group, group_sites
from varprobe.theory.grouped_layer import Tile, cut_tiles

ROUNDING = 1e-9
"""float64 sums of up to a hundred thousand terms of order 1."""


def draw(sites, samples=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(2, sites, sites, generator=generator, dtype=torch.float64)
    return ExplicitPairs(values + values.mT, samples)


@given(sites=st.integers(1, 400))
def test_groups_cover_every_pair_of_sites_once(sites):
    groups = group_sites(sites)
    assert float(groups.sizes.sum()) == sites
    assert float(groups.counts.sum()) == sites * sites
    assert bool((groups.nearest[groups.places] == torch.arange(len(groups.places))).all())
    # The first sites and the last one stand for themselves.
    for site in (*range(min(4, sites)), sites - 1):
        assert groups.places[groups.nearest[site]] == site
        assert groups.sizes[groups.nearest[site]] == 1


@pytest.mark.parametrize("sites", [5, 40, 300])
def test_sums_are_those_of_all_pairs(sites):
    pairs = draw(sites)
    found = group(pairs)
    assert found.total() == pytest.approx(pairs.total(), rel=ROUNDING, abs=1e-6)
    assert found.mean == pytest.approx(pairs.mean, rel=ROUNDING)
    assert float(found.row_sums().sum()) == pytest.approx(
        float(found.to_explicit().row_sums().sum()), abs=1e-6
    )
    assert float(found.column_sums().sum()) == pytest.approx(float(found.row_sums().sum()))
    # Told apart and grouped again they are the same.
    assert torch.allclose(group(found.to_explicit()).values, found.values, atol=ROUNDING)


def test_vectors_and_diagonals_go_by_site():
    found = group(draw(40))
    groups = found.groups
    vector = groups.nearest.double() + 1  # the same within each representative's share
    expected = torch.outer(vector, vector)
    assert torch.equal(found.broadcast(vector, vector), expected[groups.places][:, groups.places])
    assert torch.equal(
        found.outer(vector[:, None], vector[:, None]), found.broadcast(vector, vector)
    )
    assert torch.equal(found.with_diagonal(vector).second_moments, vector)
    added = found.add_diagonal(vector).second_moments
    assert torch.allclose(added, found.second_moments + vector)
    assert torch.equal(found.unit().second_moments, torch.ones(40, dtype=torch.float64))


def test_single_sites_can_be_taken_out_and_put_back():
    found = group(draw(300))
    index = torch.tensor([0, 3, 299])
    taken = found.gather(index)
    assert torch.equal(taken.values, found.to_explicit().gather(index).values)
    back = found.take_back(taken, index)
    assert isinstance(back, GroupedPairs)
    assert back.total() == pytest.approx(taken.total())
    assert found.gather(torch.arange(300)) is found
    with pytest.raises(MissingRuleError, match="some sites of a group"):
        found.take_back(taken, torch.tensor([0, 3, 250]))
    with pytest.raises(MissingRuleError, match="many sites"):
        found.gather(torch.arange(299))
    with pytest.raises(MissingRuleError, match="across the sites"):
        found.centre()


@pytest.mark.parametrize("kind", ["gpt", "llama", "normed"])
def test_groups_predict_what_sites_told_apart_do(kind, monkeypatch):
    # 48 sites in 29 representatives. Both average over draws, by some percent each; gradients of
    # queries and keys are small differences.
    build = {
        "gpt": lambda: GPT(2, 64, 48, 40),
        "llama": lambda: Llama(2, 64, 40),
        "normed": lambda: Llama(2, 64, 40, normed=True),
    }[kind]
    torch.manual_seed(0)
    x = torch.randint(0, 40, (3, 48))
    init = "normal(std=0.05, embeddings=True)"
    expected = vp.predict(build, x, init=init, draws=0)
    monkeypatch.setattr(grouped, "MOST_SITES", 16)
    monkeypatch.setattr("varprobe.theory.rules.lookup.MOST_SITES", 16)
    found = vp.predict(build, x, init=init, draws=0)
    assert not found.unsupported
    assert {e.site for e in found} == {e.site for e in expected}
    for row, told in zip(found, expected, strict=True):
        allowed = 0.05 if row.site.signal == "activation" else 0.2
        assert row.second_moment == pytest.approx(told.second_moment, rel=allowed, abs=1e-9), row


def test_a_long_sequence_costs_no_more_than_its_groups(monkeypatch):
    # Token numbers on the meta device: any of them, each with the same chance.
    asked = []
    monkeypatch.setattr(
        grouped_layer,
        "draw_law",
        lambda *a, inner=grouped_layer.draw_law: asked.append(a) or inner(*a),
    )
    tokens = torch.empty(2, 600, dtype=torch.long, device="meta")
    prediction = vp.predict(
        lambda: Llama(1, 64, 1000), tokens, init="normal(std=0.02, embeddings=True)", draws=0
    )
    assert not prediction.unsupported
    assert len(asked) == 2  # once forward, once back, from the same seed
    again = vp.predict(
        lambda: Llama(1, 64, 1000), tokens, init="normal(std=0.02, embeddings=True)", draws=0
    )
    assert list(prediction) == list(again)


def test_large_scores_of_a_long_sequence_are_summed_over_all_keys(monkeypatch):
    # Scores of variance 10: a query reads a few of 300 keys, which a choice of 34 would miss.
    torch.manual_seed(0)
    x = torch.randint(0, 1000, (1, 300))

    def predict():
        init = "normal(std=0.222, embeddings=True)"
        return vp.predict(lambda: Llama(1, 64, 1000), x, init=init, draws=0)

    with monkeypatch.context() as patch:
        patch.setattr(grouped_layer, "MOST_DRAWS", 2)  # as many as 2,048 tokens get
        found = predict()
    monkeypatch.setattr(grouped, "MOST_SITES", 300)
    monkeypatch.setattr("varprobe.theory.rules.lookup.MOST_SITES", 300)
    expected = predict()
    assert not found.unsupported
    for row, told in zip(found, expected, strict=True):
        allowed = 0.05 if row.site.signal == "activation" else 0.2
        assert row.second_moment == pytest.approx(told.second_moment, rel=allowed, abs=1e-9), row


def mask(kind, sites):
    sees = torch.ones(sites, sites, dtype=torch.bool)
    return {"all": sees, "past": sees.tril(), "window": sees.tril() & sees.triu(-60)}[kind]


@pytest.mark.parametrize("kind", ["all", "past", "window"])
def test_tiles_hold_every_weight_and_leave_out_most_of_the_future(kind):
    groups = group_sites(300)
    weights = mask(kind, 300)[groups.places].float().expand(1, 2, 3, -1, -1)
    covered = torch.zeros(weights.shape[-2:], dtype=torch.bool)
    for tile in cut_tiles(weights, groups):
        span = groups.spans[tile.groups[0]].start, groups.spans[tile.groups[-1]].stop
        assert (tile.keys.start, tile.keys.stop) == span
        assert not bool(covered[:, tile.keys].any())
        covered[tile.rows, tile.keys] = True
    assert bool(covered[weights[0, 0, 0] > 0].all())
    assert (float(covered.float().mean()) < 0.4) == (kind != "all")


@pytest.mark.parametrize("draws", [1, 3])
def test_sums_by_tiles_are_those_over_all_queries(draws, monkeypatch):
    tokens = torch.empty(2, 300, dtype=torch.long, device="meta")

    def predict():
        init = "normal(std=0.2, embeddings=True)"
        return vp.predict(lambda: Llama(1, 64, 1000), tokens, init=init, draws=0)

    monkeypatch.setattr(grouped_layer, "MOST_DRAWS", draws)
    found = predict()

    def cut_whole(weights, groups):
        count = len(groups.spans)
        return [Tile(range(count), slice(0, groups.sites), slice(0, weights.shape[-2]))]

    monkeypatch.setattr(grouped_layer, "cut_tiles", cut_whole)
    # float32 sums of hundreds of terms, some of which cancel.
    for row, whole in zip(found, predict(), strict=True):
        assert row.second_moment == pytest.approx(whole.second_moment, rel=1e-4, abs=1e-9), row


def test_some_pairs_are_chosen_by_shapes_and_read_from_each_matrix_anew():
    first = group(draw(300))
    second = first.map(lambda values: 2 * values)
    for samples, pairs in ((3, first), (3, second), (2, replace(first, samples=2))):
        values, scales, shares = pairs.sample_pairs(1000)
        # Nothing is left out: all pairs of different (sample, site), as often as they stand.
        matrix, spreads = pairs.values, pairs.values[1].diagonal().clamp_min(1e-300).sqrt()
        apart = ~torch.eye(len(spreads), dtype=torch.bool)
        counts = pairs.groups.counts * (samples * 300**2 / pairs.groups.counts.sum())
        outer = torch.outer(spreads, spreads)
        assert torch.equal(values, torch.cat([matrix[1][apart], matrix[0].flatten()]))
        assert torch.equal(scales, torch.cat([outer[apart], outer.flatten()]))
        assert torch.equal(shares, torch.cat([counts[apart], (samples - 1) * counts.flatten()]))
        few = pairs.sample_pairs(24)
        assert len(few[0]) == len(few[1]) == len(few[2]) <= 2 * 24**2
        assert bool(torch.isin(few[0], matrix).all())
