"""Claims: what is refused before it is measured, how they are listed and chosen."""

import math

import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.studies import reproduction as rep
from rlhf_jax.studies.reproduction import claim as claims

FULL = rep.FullScale("recipe", "numbers")


def make(id="A1", threshold=None, seeds=(0, 1, 2), **options):
    options = {"measure": lambda seed: float(seed), "full_scale": FULL} | options
    threshold = rep.Above() if threshold is None else threshold
    options |= {"paper": "Paper 2020", "statement": "a > b", "protocol": "both arms"}
    return rep.Claim(id=id, seeds=seeds, threshold=threshold, **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "a/b"}, "file name"),
        ({"id": ""}, "file name"),
        ({"seeds": ()}, "at least one"),
        ({"seeds": (1, 1)}, "all different"),
        ({"seeds": (1,)}, "one seed has no interval"),
        ({"threshold": {}}, "no threshold"),
        ({"threshold": rep.Band(1.0, 1.0)}, "nothing can meet"),
        ({"threshold": rep.Equivalence(0.0)}, "nothing can meet"),
        ({"threshold": rep.Exact(0.0, -1.0)}, "nothing can meet"),
        ({"threshold": {"a": rep.Above(math.nan)}}, "nothing can meet"),
        ({"suites": ("weekly",)}, "smoke, nightly, release"),
        ({"suites": ()}, "smoke, nightly, release"),
        ({"confidence": 95.0}, "confidence=95.0"),
    ],
)
def test_a_claim_that_cannot_be_decided_is_refused(change, message):
    with pytest.raises(UserError, match=message):
        claims.check(make(**change))


def test_one_seed_is_enough_for_an_exact_fact():
    assert claims.check(make(threshold=rep.Exact(0.0, 1e-6), seeds=(0,)))


def test_the_kind_follows_from_the_thresholds():
    assert make().kind == "inequality"
    both = {"a": rep.Band(0.0, 1.0), "b": rep.Exact(1.0, 0.0), "c": rep.Band(1.0, 2.0)}
    assert make(threshold=both).kind == "band+exact"
    assert make(threshold=rep.Equivalence(0.03)).kind == "equivalence"


def test_thresholds_are_described_as_formulas():
    assert claims.describe(rep.Above(0.3)) == "> 0.3"
    assert claims.describe(rep.Below(0.0)) == "< 0"
    assert claims.describe(rep.Band(0.1, 0.2)) == "0.1 to 0.2"
    assert claims.describe(rep.Equivalence(0.03)) == "within ±0.03"
    assert claims.describe(rep.Exact(1.0, 1e-6)) == "= 1 ± 1e-06"


A = make("R4-kl", suites=("nightly", "release"))
B = make("M1", suites=("smoke", "nightly", "release"))
C = make("R5", suites=("release",))


def ids(found):
    return [one.id for one in found]


def test_claims_are_chosen_by_name_or_suite():
    assert ids(rep.select([A, B, C])) == ["R4-kl", "M1", "R5"]
    assert ids(rep.select([A, B, C], ["m1", "R4-KL"])) == ["R4-kl", "M1"]
    assert ids(rep.select([A, B, C], ["r4", "R5"])) == ["R4-kl", "R5"], "a family"
    assert ids(rep.select([A, B, C], suite="nightly")) == ["R4-kl", "M1"]
    assert ids(rep.select([A, B, C], ["r5", "m1"], "smoke")) == ["M1"]


def test_what_cannot_be_chosen_is_named():
    with pytest.raises(UserError, match="no claim 'R4_kl', did you mean 'R4-kl'"):
        rep.select([A, B], ["R4_kl"])
    with pytest.raises(UserError, match="suite='weekly'"):
        rep.select([A], suite="weekly")
    with pytest.raises(UserError, match="no claim is in suite 'smoke'"):
        rep.select([A], suite="smoke")


def test_two_claims_of_one_id_are_refused():
    with pytest.raises(UserError, match="two claims have the id 'm1'"):
        rep.checked([B, make("m1")])


def test_the_listing_has_every_claim():
    text = rep.listing([A, B])
    assert "R4-kl" in text and "inequality; 3 seeds; smoke, nightly, release" in text


SOURCE = """
from rlhf_jax.studies import reproduction as rep
CLAIM = rep.Claim(
    id="{}", paper="p", statement="s", protocol="x", seeds=(0, 1),
    measure=lambda seed: 1.0 + seed, threshold=rep.Above(),
    full_scale=rep.FullScale("r", "n"))
"""


def test_claims_are_read_from_the_files_of_a_folder(tmp_path):
    (tmp_path / "b.py").write_text(SOURCE.format("B"))
    (tmp_path / "a.py").write_text(SOURCE.format("A") + "CLAIMS = (CLAIM,)\ndel CLAIM")
    (tmp_path / "_helper.py").write_text("raise SystemExit")
    assert ids(rep.read(tmp_path)) == ["A", "B"]
    (tmp_path / "c.py").write_text("x = 1")
    with pytest.raises(UserError, match="c.py holds no claim"):
        rep.read(tmp_path)
    with pytest.raises(UserError, match="no folder"):
        rep.read(tmp_path / "nowhere")
