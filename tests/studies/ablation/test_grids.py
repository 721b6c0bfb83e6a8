"""Grids of cells."""

import itertools

import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.studies import ablation
from rlhf_jax.studies.ablation import Factor, Term

CONFIG = {"ppo": {"kl": 0.1, "lam": 1.0, "whiten": True, "shape": (1, 2)}}


def changes(cells):
    return [dict(cell.changes) for cell in cells]


def test_one_at_a_time_changes_one_key_a_cell_and_skips_what_the_config_has():
    factors = [Factor("ppo.kl", (0.0, 0.1, 0.2)), Factor("ppo.lam", (0.95, 1.0))]
    cells = ablation.one_at_a_time(factors, CONFIG)
    assert changes(cells) == [{}, {"ppo.kl": 0.0}, {"ppo.kl": 0.2}, {"ppo.lam": 0.95}]
    assert [cell.name for cell in cells] == ["baseline", "kl=0.0", "kl=0.2", "lam=0.95"]
    assert [cell.baseline for cell in cells] == [True, False, False, False]


def test_without_a_config_every_value_is_a_cell():
    assert len(ablation.one_at_a_time([Factor("ppo.kl", (0.0, 0.1))])) == 3


def test_true_is_not_one_and_tuples_are_lists():
    cells = ablation.one_at_a_time(
        [Factor("ppo.whiten", (1, True)), Factor("ppo.shape", ([1, 2],))], CONFIG
    )
    assert changes(cells) == [{}, {"ppo.whiten": 1}]


def test_the_product_has_every_combination_once_and_knows_its_baseline():
    factors = [Factor("ppo.kl", (0.0, 0.1)), Factor("ppo.lam", (0.9, 1.0), "lambda")]
    cells = ablation.product(factors, CONFIG)
    found = [(cell.changes["ppo.kl"], cell.changes["ppo.lam"]) for cell in cells]
    assert found == list(itertools.product((0.0, 0.1), (0.9, 1.0)))
    assert [c.name for c in cells if c.baseline] == ["kl=0.1, lambda=1.0"]


def test_a_product_without_the_config_gets_it_as_a_cell_of_its_own():
    cells = ablation.product([Factor("ppo.kl", (0.3, 0.4))], CONFIG)
    assert changes(cells) == [{}, {"ppo.kl": 0.3}, {"ppo.kl": 0.4}]
    assert cells[0].baseline and not any(cell.baseline for cell in cells[1:])


A, B = Term("a", {"x.a": 0, "y.a": None}), Term("b", {"x.b": False})


def test_leave_one_out_switches_one_term_off_and_says_which():
    cells = ablation.leave_one_out([A, B])
    assert changes(cells) == [{}, {"x.a": 0, "y.a": None}, {"x.b": False}]
    assert [cell.leaves_out for cell in cells] == ["", "a", "b"]


def test_add_one_in_switches_all_others_off():
    cells = ablation.add_one_in([A, B])
    assert changes(cells) == [
        {"x.a": 0, "y.a": None, "x.b": False},
        {"x.b": False},
        {"x.a": 0, "y.a": None},
        {},
    ]
    assert [cell.baseline for cell in cells] == [True, False, False, False]
    assert not any(cell.leaves_out for cell in cells)


def test_terms_that_cannot_be_taken_apart_are_refused():
    with pytest.raises(UserError, match="'a' and 'c' both switch x.a"):
        ablation.add_one_in([A, B, Term("c", {"x.a": 0})])
    with pytest.raises(UserError, match="'empty' has no change"):
        ablation.leave_one_out([A, Term("empty", {})])
    with pytest.raises(UserError, match="no term"):
        ablation.leave_one_out([])
