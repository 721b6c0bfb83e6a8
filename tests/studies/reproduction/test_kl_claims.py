"""The shipped claims about KL estimators, and that they would notice a bug."""

import pathlib

import pytest

from rlhf_jax.studies import reproduction as rep

FOLDER = pathlib.Path(__file__).parents[3] / "experiments" / "claims"


@pytest.fixture
def claims():
    return {one.id: one for one in rep.read(FOLDER)}


def verdict(claim):
    return rep.judge(claim, {seed: claim.measure(seed) for seed in claim.seeds})


@pytest.mark.identity("C11")
@pytest.mark.parametrize("name", ["M1", "M2"])
def test_the_published_table_of_estimators_comes_out(claims, name):
    """Bias and spread of k1, k2, k3 on Gaussians are those of Schulman's two tables, as
    claims with intervals over seeds; with k2 twice as large, or k1 in the place
    of k3, the claims fail."""
    claim = claims[name]
    assert verdict(claim).verdict == "holds"
    estimators = claim.measure.__globals__["ESTIMATORS"]
    right = dict(estimators)
    for key, wrong in (
        ("k2", lambda p, q: 2 * right["k2"](p, q)),
        ("k3", right["k1"]),
    ):
        estimators[key] = wrong
        assert verdict(claim).verdict == "fails", key
        estimators[key] = right[key]


@pytest.mark.identity("C11", "B31")
def test_gradients_of_estimators_as_a_claim(claims):
    """As losses k1, k2 and k3 have the gradients 0, KL(policy || reference) and
    KL(reference || policy), as an exact claim of every seed; with k3 in the place of k2
    it fails."""
    claim = claims["M3"]
    assert verdict(claim).verdict == "holds"
    estimators = claim.measure.__globals__["ESTIMATORS"]
    estimators["k2"], kept = estimators["k3"], estimators["k2"]
    found = verdict(claim)
    estimators["k2"] = kept
    failed = [one.name for one in found.findings if one.verdict == "fails"]
    assert failed == ["k2 - grad KL(pi || ref)"]


def test_the_facts_about_fixed_points_hold_over_worlds(claims):
    claim = claims["C3-facts"]
    assert verdict(claim).verdict == "holds"


def test_what_does_not_come_out_is_in_the_list_still(claims):
    assert "C3-bands" in claims
    assert claims["C3-bands"].suites == ("release",)


def test_shipped_claims_are_complete(claims):
    for one in claims.values():
        assert one.full_scale.recipe and one.full_scale.numbers
        assert one.paper and one.protocol and len(one.seeds) >= 5
