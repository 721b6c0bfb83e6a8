"""The shipped claims: complete, and that they would notice what they are about.

Trained arms are not run here; that their configs build is.
"""

import importlib.util
import pathlib

import numpy as np
import pytest

from rlhf_jax.build import experiment
from rlhf_jax.rollout import best_of_n
from rlhf_jax.studies import reproduction as rep
from rlhf_jax.training.stopping import Stop

FOLDER = pathlib.Path(__file__).parents[2] / "experiments" / "claims"


def module(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def verdict(one, seeds=1):
    one = one._replace(seeds=one.seeds[:seeds])
    return rep.judge(one, {seed: one.measure(seed) for seed in one.seeds})


def failed(one, seeds=1):
    return {f.name for f in verdict(one, seeds).findings if f.verdict == "fails"}


def of(found, id):
    return next(one for one in found.CLAIMS if one.id == id)


def test_what_the_suites_hold():
    claims = rep.read(FOLDER)
    ids = {
        suite: {c.id for c in rep.select(claims, suite=suite)} for suite in rep.SUITES
    }
    assert ids["smoke"] <= ids["nightly"] <= ids["release"]
    assert {f"M{i}" for i in range(1, 11)} <= ids["smoke"]
    for family in ("R1-", "R3-", "R4-", "R5-", "R6-", "R7-", "R9-"):
        assert any(id.startswith(family) for id in ids["nightly"]), family


@pytest.mark.identity("C10", "C39")
def test_best_of_n_claims_notice_a_wrong_formula(monkeypatch):
    """KL of best-of-n is F^n - F-^n's, at most log n - (n-1)/n, and estimated within 5
    %; with n + 1 draws in the place of n, or an estimate without its rare part, the
    claims fail."""
    found = module("best_of_n")
    names = ("M4", "M5", "R6-estimator")
    claims = [of(found, name) for name in names]
    assert [verdict(one).verdict for one in claims] == ["holds"] * 3
    right, estimate = best_of_n.pmf, best_of_n.kl_estimate
    with monkeypatch.context() as patch:
        patch.setattr(best_of_n, "pmf", lambda p, s, n: right(p, s, n + 1))
        assert failed(claims[0]) and failed(claims[1]) and failed(claims[2])
    monkeypatch.setattr(best_of_n, "kl_estimate", lambda n, e: 0.9 * estimate(n, e))
    assert failed(claims[2]) == {"10 atoms", "100 atoms", "1000 atoms", "E32k"}


@pytest.mark.identity("C4", "C5")
def test_dpo_claims_notice_a_wrong_loss(monkeypatch):
    """The minimum of DPO is RLHF's optimum, and free where no pair speaks; with twice
    the beta in the loss the claim fails."""
    found = module("dpo_optimum")
    assert verdict(of(found, "M7")).verdict == "holds"
    outside = verdict(of(found, "M8"), seeds=2).findings[1]
    assert outside.name == "mass off the support, between two starts"
    assert outside.effect > 0.05
    right = found.preference.dpo_loss
    monkeypatch.setattr(
        found.preference, "dpo_loss", lambda *ends, beta: right(*ends, beta=2 * beta)
    )
    assert failed(of(module("dpo_optimum"), "M7"))


@pytest.mark.identity("C7")
def test_robust_dpo_is_unbiased_and_the_conservative_form_is_not():
    """Under flipped labels robust DPO's minimum is the tilt; with cDPO in its place the
    claim fails."""
    found = module("preference_noise")
    assert not failed(of(found, "M9"))
    mistaken = module("preference_noise")  # compiles anew
    mistaken.LOSSES["robust"] = mistaken.LOSSES["cdpo"]
    wrong = failed(of(mistaken, "M9"))
    assert "robust DPO, total variation to the tilt" in wrong


@pytest.mark.identity("C8", "C22")
def test_ranking_claims_notice_a_wrong_likelihood():
    """With two responses every ranking loss is Bradley-Terry's; with the best-of-K loss
    in the place of Plackett-Luce's the identity at K = 4 fails."""
    found = module("rankings")
    assert verdict(of(found, "R7-identity")).verdict == "holds"
    found.TERMS["plackett_luce"] = found.TERMS["best_of_k"]
    assert failed(of(found, "R7-identity")) == {"K = 4, Plackett-Luce from its stages"}


@pytest.mark.identity("B8", "B9")
def test_the_planted_faults_are_what_the_claims_see(monkeypatch):
    """A second temperature moves a policy without any reward, and dropout puts ratios
    off 1 before any update; with the fault taken out both claims fail."""
    found = module("sampling_faults")
    claims = [of(found, name) for name in ("R4-temperature", "R4-dropout")]
    assert [verdict(one, 8).verdict for one in claims] == ["holds"] * 2
    monkeypatch.setattr(found, "COLD", 1.0)
    monkeypatch.setattr(found, "DROPPED", 0.0)
    # Without spread over seeds a bound is its mean, and 0 is not above 0.1.
    assert [verdict(one, 8).verdict for one in claims] == ["fails"] * 2


@pytest.mark.parametrize("name", ["critic_free", "key_lm_chain", "key_lm_parts"])
def test_configs_of_trained_arms_build(name, tmp_path):
    found = module(name)
    if name == "critic_free":
        plans = [found.config(arm, 0) for arm in found.ARMS]
    elif name == "key_lm_chain":
        plans = [found.config(0)]
    else:
        arms = ({}, found.BARE, found.SCRATCH, {"kl_coef": found.COEFS[0]})
        plans = [found.config(0, changes=changes) for changes in arms]
    for plan in plans:
        with Stop() as stop:
            experiment.build(plan, tmp_path, stop)


def test_compared_arms_bring_as_many_responses_and_differ_where_they_say():
    found = module("critic_free")
    plans = {arm: found.config(arm, 0) for arm in found.ARMS}
    for plan in plans.values():
        assert plan.ppo.batch_size * plan.ppo.samples_per_prompt == 256
    low, high = (plans[f"clip {eps}"].ppo.to_dict() for eps in ("0.2", "0.28"))
    assert low.pop("clipped_surrogate")["clip_eps"] == (0.2, 0.2)
    assert high.pop("clipped_surrogate")["clip_eps"] == (0.2, 0.28)
    assert low == high


def test_curves_of_over_optimization_start_at_the_reference():
    """KL, gold and proxy are 0 at n = 1; the proxy of best-of-n rises with n."""
    found = module("over_optimization")
    world = found.enumerable.e32k(0)
    score = world.gold + np.random.default_rng(0).normal(size=world.size)
    (curve,) = found.optimized.best_of(world, score[None], found.DRAWS)
    mean = np.exp(world.reference) @ score
    np.testing.assert_allclose(curve[0], [0.0, 0.0, mean], atol=1e-9)
    assert np.all(np.diff(curve[:, 2]) > 0) and np.all(np.diff(curve[:, 0]) > 0)
