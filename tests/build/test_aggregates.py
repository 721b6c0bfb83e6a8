"""Names of several scorers."""

import jax.numpy as jnp
import pytest

from rlhf_jax.build.objective import aggregates
from rlhf_jax.errors import UserError
from rlhf_jax.types import Rollout, Scorer, Scores

NOTHING = Rollout(*[None] * 6)


def scorer(values):
    return Scorer(lambda: (), lambda *_: Scores(jnp.asarray(values, jnp.float32)))


MEMBERS = [scorer([0.0, 4.0]), scorer([2.0, 0.0])]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("sum", [2.0, 4.0]),
        ("mean", [1.0, 2.0]),
        ("minimum", [0.0, 0.0]),
        ("mean_minus_std(0.5)", [0.5, 1.0]),
        ("mean_minus_variance(2)", [-1.0, -6.0]),
        ("mean_minus_std(0)", [1.0, 2.0]),
    ],
)
def test_an_aggregate_is_what_it_is_called(name, wanted):
    found = aggregates.parse(f"{name}:rm,round-2/rm")
    assert found is not None and found.members == ("rm", "round-2/rm")
    made = found.make(MEMBERS)
    assert made.apply(made.init(), None, NOTHING).sequence.tolist() == wanted


@pytest.mark.parametrize(
    "name", ["rm", "./a/dir", "gold", "C:/models/rm", "round-2/rm"]
)
def test_a_single_scorer_is_no_aggregate(name):
    assert aggregates.parse(name) is None


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mean_minus_std:a,b", "with a number k"),
        ("mean_minus_std(x):a,b", "with a number k"),
        ("mean_minus_std(-1):a,b", "with a number k"),
        ("mean_minus_std(nan):a,b", "with a number k"),
        ("mean(2):a,b", "takes no number"),
        ("mean_minus(2):a,b", "did you mean"),
    ],
)
def test_a_name_that_is_not_right_is_refused(name, said):
    with pytest.raises(UserError, match=said):
        aggregates.parse(name)


def test_disagreement_is_the_deviation_of_the_members():
    made = aggregates.disagreement(MEMBERS)
    assert made.apply(made.init(), None, NOTHING).sequence.tolist() == [1.0, 2.0]
