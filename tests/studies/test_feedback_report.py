"""A report on feedback counts what is there and measures what can be measured."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from rlhf_jax.data import feedback
from rlhf_jax.studies import feedback_report, files

PAIR = [{"id": "a", "text": "A"}, {"id": "b", "text": "B"}]


def record(id, prompt="p", annotator=None, better=None, tie=False, **more):
    said = {"id": id, "prompt": prompt, "responses": PAIR, "annotator": annotator}
    if better is not None:
        worse = "b" if better == "a" else "a"
        said["pairs"] = [{"better": better, "worse": worse, "tie": tie}]
    return {**said, **more}


def rated(**values):
    return [
        {"response": name, "attribute": "help", "value": value, "low": 0, "high": 4}
        for name, value in values.items()
    ]


def labeled(**goods):
    return [{"response": name, "good": good} for name, good in goods.items()]


def measure(*rows):
    return feedback_report.measure(feedback.from_rows(rows))


def test_counts_views_and_what_is_said_twice():
    found = measure(
        record("1", annotator="ann", better="a"),
        record("2", annotator="ben", better="a"),
        record("3", annotator="ann", better="b", tie=True),
        record("4", annotator="ann", better="a", tie=True),
        record("5", "q", labels=labeled(a=True)),
        record("6", "q", labels=labeled(a=True), ratings=rated(a=1, b=2)),
        record("7", "r", labels=labeled(a=True, b=False)),
        record("8", "r", labels=labeled(a=True, b=False)),
    )
    assert found.counts == {
        "records": 8, "prompts": 3, "responses": 16, "different responses": 6,
        "annotators": 2, "records without annotator": 4,
    }  # fmt: skip
    assert found.verdicts == {
        "pairs": {"records": 4, "items": 4}, "ratings": {"records": 1, "items": 2},
        "labels": {"records": 4, "items": 6},
    }  # fmt: skip
    assert found.views["pairs"]["records"] == 2
    assert found.views["pairs"]["dropped"]["tie: no preference"] == 2
    assert found.views["pairs by help"]["records"] == 1
    assert found.views["labels"]["records"] == 6
    ids = {k: [g["ids"] for g in groups] for k, groups in found.duplicates.items()}
    assert ids == {
        "by several annotators": [("1", "2")],
        "by one annotator twice": [("3", "4")],
        "by unknown annotators": [("7", "8")],
    }
    text = feedback_report.summary(found)
    assert "records without annotator" in text and "tie: no preference" in text


def test_contradictions_of_every_kind_are_listed():
    found = measure(
        record("1", annotator="ann", better="a", labels=labeled(a=True)),
        record("2", annotator="ann", better="b", ratings=rated(a=1, b=2)),
        record("3", labels=labeled(a=False), ratings=rated(a=2, b=1)),
    )
    assert [len(said) for said in found.contradictions.values()] == [1, 1, 1, 1]
    text = feedback_report.summary(found)
    (line,) = [x for x in text.splitlines() if "ordered both ways" in x]
    assert line.endswith("1, 1 of them by one annotator")
    row = files.finite(found.row())
    (said,) = row["contradictions"]["pairs rated both ways"]
    assert said["first_above"] == ["3"] and said["attribute"] == "help"


def test_agreement_where_annotators_overlap():
    """By hand: of two pairs of texts, one is disputed and one a tie for both."""
    found = measure(
        record("1", annotator="ann", better="a", ratings=rated(a=0, b=4)),
        record("2", annotator="ben", better="b", ratings=rated(a=4, b=4)),
        record("3", "q", "ann", "a", tie=True),
        record("4", "q", "ben", "a", tie=True),
        record("5", annotator="cem", labels=labeled(a=True)),
    ).agreement
    said = found["preferences"]
    assert (said.annotators, said.n, said.level) == (2, 2, "nominal")
    assert said.alpha == pytest.approx(1 - 3 * 2 / 10)
    (kappa,) = said.kappas
    assert kappa.annotators == ("ann", "ben") and kappa.n == 2
    assert kappa.value == pytest.approx(1 / 3)
    assert [one.n for one in said.accuracies] == [2, 2]
    assert found["labels"].unmeasured == {"alpha": "there is one annotator"}
    rating = found["ratings of help"]  # 0 and 1, 1 and 1: alpha 1 - 3 * 2 / 6
    assert rating.level == "interval" and rating.alpha == pytest.approx(0.0)
    assert not rating.kappas and not rating.accuracies


def test_who_errs_is_found_and_few_in_common_make_no_kappa():
    """Four of five label 40 texts rightly, one at random; one labels 3 of them."""
    random = np.random.default_rng(0)
    truth = random.random(40) < 0.5
    rows = [
        record(f"{name}{i}", f"p{i}", name, labels=labeled(a=bool(good)))
        for name in ("ann", "ben", "cem", "dot", "eve", "few")
        for i, good in enumerate(random.random(40) < 0.5 if name == "eve" else truth)
        if name != "few" or i < 3
    ]
    found = measure(*rows).agreement["labels"]
    assert found.accuracies[0].annotator == "eve" and found.accuracies[0].value < 0.75
    assert all(one.value > 0.9 for one in found.accuracies[1:])
    known = {kappa.annotators for kappa in found.kappas}
    names = ("ann", "ben", "cem", "dot", "eve")
    assert known == set(itertools.combinations(names, 2)), "few has 3 in common"
    text = feedback_report.summary(measure(*rows))
    assert "    and 2 more, which feedback_report.json has" in text


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([record("1", better="a")], "no annotator is named"),
        ([record("1", annotator="x", better="a")], "there is one annotator"),
        ([record("1", labels=labeled(a=True))], "no record says such"),
        (
            [record(n, n, n, "a") for n in ("x", "y")],
            "no two annotators judged the same",
        ),
        ([record(n, "p", n, "a") for n in "xy"], "all verdicts are the same"),
    ],
)
def test_what_cannot_be_measured_has_a_reason(rows, reason):
    found = measure(*rows)
    assert found.agreement["preferences"].unmeasured["alpha"] == reason
    assert f"not measured, {reason}" in feedback_report.summary(found)
    assert files.finite(found.row())["agreement"]["preferences"]["alpha"] is None


def test_one_of_three_with_too_little_in_common_has_no_kappa():
    rows = [record(n, "p", n, better) for n, better in zip("xyz", "aab", strict=True)]
    found = measure(*rows).agreement["preferences"]
    assert found.unmeasured == {"kappa": "no two annotators judged 10 of the same"}
    assert found.n == 1 and len(found.accuracies) == 3
