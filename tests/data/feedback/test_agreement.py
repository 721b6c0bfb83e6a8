"""Agreement and denoising against published numbers and brute force."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from rlhf_jax.data import feedback
from rlhf_jax.data.feedback import agreement, dawid_skene, reports, tables
from rlhf_jax.errors import UserError

_ = np.nan
KRIPPENDORFF = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, _, _, _],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, _, 3],
    [_, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, _],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, _],
]
"""Four observers, twelve units: the example of Krippendorff's own computing notes."""


@pytest.mark.parametrize(
    ("level", "published"),
    [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)],
)
def test_krippendorff_alpha_is_the_published_one(level, published):
    """Krippendorff (2011): .743 nominal, .815 ordinal, .849 interval."""
    assert agreement.krippendorff_alpha(KRIPPENDORFF, level) == pytest.approx(
        published, abs=5e-4
    )


def slow_alpha(table, distance):
    """All ordered pairs inside units, against all ordered pairs of pairable values."""
    units = [[v for v in column if not np.isnan(v)] for column in np.transpose(table)]
    units = [unit for unit in units if len(unit) > 1]
    values = [v for unit in units for v in unit]
    observed = sum(
        distance(a, b) / (len(unit) - 1)
        for unit in units
        for a, b in itertools.permutations(unit, 2)
    ) / len(values)
    pairs = list(itertools.permutations(values, 2))
    expected = sum(distance(a, b) for a, b in pairs) / len(pairs)
    return 1 - observed / expected


def test_krippendorff_alpha_equals_all_pairs():
    draw = np.random.default_rng(0)
    for seed in range(5):
        table = draw.integers(0, 4, (3 + seed % 2, 9)).astype(float)
        table[draw.random(table.shape) < 0.3] = np.nan
        pairable = table[:, (~np.isnan(table)).sum(axis=0) > 1]
        values = pairable[~np.isnan(pairable)]

        def ordinal(a, b, values=values):
            low, high = min(a, b), max(a, b)
            between = np.sum((values >= low) & (values <= high))
            ends = np.sum(values == low) + np.sum(values == high)
            return 0.0 if a == b else float(between - ends / 2) ** 2

        for level, distance in (
            ("nominal", lambda a, b: float(a != b)),
            ("interval", lambda a, b: (a - b) ** 2),
            ("ordinal", ordinal),
        ):
            assert agreement.krippendorff_alpha(table, level) == pytest.approx(
                slow_alpha(table, distance)
            )


def test_alpha_at_its_ends():
    assert agreement.krippendorff_alpha([[1, 2, 3], [1, 2, 3]]) == 1.0
    assert agreement.krippendorff_alpha([[1, 2], [2, 1]]) < 0
    assert np.isnan(agreement.krippendorff_alpha([[1, 1], [1, 1]]))
    assert np.isnan(agreement.krippendorff_alpha([[1, None], [None, 2]]))
    with pytest.raises(UserError, match="unknown level 'ratio'"):
        agreement.krippendorff_alpha([[1]], "ratio")
    with pytest.raises(UserError, match="annotators, units"):
        agreement.krippendorff_alpha([1, 2])


def test_cohen_kappa_worked_by_hand():
    """20 both yes, 15 both no, 5 and 10 apart of 50: (.7 - .5) / (1 - .5) = .4."""
    first = ["y"] * 25 + ["n"] * 25
    second = ["y"] * 20 + ["n"] * 5 + ["y"] * 10 + ["n"] * 15
    assert agreement.cohen_kappa(first, second) == pytest.approx(0.4)
    assert agreement.cohen_kappa(second, first) == pytest.approx(0.4)
    assert agreement.cohen_kappa("abc", "abc") == 1.0
    assert np.isnan(agreement.cohen_kappa("aa", "aa"))
    with pytest.raises(UserError, match="equal numbers, got 2, 1"):
        agreement.cohen_kappa("aa", "a")


@pytest.mark.parametrize(("weights", "power"), [("linear", 1), ("quadratic", 2)])
def test_weighted_kappa_equals_all_pairs(weights, power):
    """Observed cost of the pairs over that of all pairings of the two margins."""
    draw = np.random.default_rng(1)
    first, second = draw.integers(0, 4, (2, 30)).tolist()
    cost = np.mean([abs(a - b) ** power for a, b in zip(first, second, strict=True)])
    chance = np.mean([abs(a - b) ** power for a in first for b in second])
    found = agreement.cohen_kappa(first, second, weights=weights)
    assert found == pytest.approx(1 - cost / chance)


def crowd(seed, items=300):
    """Three classes, five annotators of known skill, some labels missing."""
    draw = np.random.default_rng(seed)
    truth = draw.choice(3, items, p=[0.5, 0.3, 0.2])
    confusion = np.stack(
        [np.full((3, 3), (1 - s) / 2) + np.eye(3) * (1.5 * s - 0.5)
         for s in (0.95, 0.85, 0.7, 0.5, 0.4)]
    )  # fmt: skip
    confusion[4] = confusion[4][:, [1, 0, 2]]  # one mixes two classes up
    rows = [
        (i, a, draw.choice(3, p=confusion[a, truth[i]]))
        for i in range(items)
        for a in range(5)
        if a == 0 or draw.random() < 0.8
    ]
    return truth, confusion, np.asarray(rows).T


def slow_round(posterior, rows, annotators, classes):
    """One round of EM as the paper writes it, by loops; the paper's form."""
    prior = [sum(row[c] for row in posterior) / len(posterior) for c in range(classes)]
    shape = (annotators, classes, classes)
    confusion = np.zeros(shape)
    for i, a, label in rows:
        for c in range(classes):
            confusion[a, c, label] += posterior[i][c]
    confusion /= confusion.sum(axis=2, keepdims=True)
    joint = np.tile(prior, (len(posterior), 1))
    for i, a, label in rows:
        joint[i] *= confusion[a, :, label]
    return joint / joint.sum(axis=1, keepdims=True), np.log(joint.sum(axis=1)).sum()


def test_dawid_skene_equals_loops():
    _, _, rows = crowd(0, items=40)
    posterior = np.zeros((40, 3))
    for i, _a, label in rows.T:
        posterior[i, label] += 1
    posterior /= posterior.sum(axis=1, keepdims=True)
    for _round in range(7):
        posterior, likelihood = slow_round(posterior, rows.T, 5, 3)
    found = dawid_skene.fit(*rows, rounds=7, smoothing=0.0, tolerance=0.0)
    np.testing.assert_allclose(found.posterior, posterior, atol=1e-10)
    assert found.log_likelihood[-1] == pytest.approx(likelihood)


def test_dawid_skene_recovers_skills_and_beats_the_majority():
    truth, confusion, rows = crowd(1)
    found = dawid_skene.fit(*rows)
    assert np.all(np.diff(dawid_skene.fit(*rows, smoothing=0.0).log_likelihood) > -1e-9)
    assert np.abs(found.confusion - confusion).mean() < 0.05
    votes = np.zeros((len(truth), 3))
    np.add.at(votes, (rows[0], rows[2]), 1)
    right = np.mean(found.labels() == truth)
    assert right > np.mean(np.argmax(votes, axis=1) == truth) + 0.03
    np.testing.assert_allclose(found.posterior.sum(axis=1), 1.0)


def test_dawid_skene_refuses_what_it_cannot_use():
    with pytest.raises(UserError, match="one item, annotator and class"):
        dawid_skene.fit([0, 1], [0], [0])
    with pytest.raises(UserError, match="item 1 has no label"):
        dawid_skene.fit([0, 2], [0, 0], [0, 1])


def said(id, annotator, better, worse, tie=False):
    responses = [{"id": "x", "text": better}, {"id": "y", "text": worse}]
    pair = {"better": "x", "worse": "y", "tie": tie}
    return feedback.parse(
        {"id": id, "prompt": "p", "responses": responses, "pairs": [pair],
         "annotator": annotator}, "",
    )  # fmt: skip


def test_duplicates_and_contradictions():
    records = [
        said("1", "ann", "A", "B"),
        said("2", "ben", "A", "B"),
        said("3", "ann", "B", "A"),
        said("4", "cem", "C", "D"),
        said("5", "cem", "A", "D", tie=True),
        said("6", "dot", "D", "A", tie=True),
    ]
    found = reports.duplicates(records)
    assert found == [
        reports.Duplicate(("1", "2"), ("ann", "ben")),
        reports.Duplicate(("5", "6"), ("cem", "dot")),
    ]
    assert reports.contradictions(records) == [
        reports.Contradiction("p", ("A", "B"), ("1", "2"), ("3",), ("ann",))
    ]


def judged(id, annotator, labels=(), ratings=()):
    """Labels (text, good) and ratings (text, attribute, value of 1 to 5)."""
    texts = dict.fromkeys(text for text, *_ in (*labels, *ratings))
    return feedback.parse(
        {"id": id, "prompt": "p", "annotator": annotator,
         "responses": [{"id": text.lower(), "text": text} for text in texts],
         "labels": [{"response": text.lower(), "good": good} for text, good in labels],
         "ratings": [{"response": text.lower(), "attribute": name, "value": value,
                      "low": 1, "high": 5} for text, name, value in ratings]}, "",
    )  # fmt: skip


def test_labels_of_a_text_contradict_between_records():
    records = [
        judged("1", "ann", [("A", True), ("B", True)]),
        judged("2", "ben", [("A", False), ("B", True)]),
        judged("3", "ann", [("A", False)]),
        judged("4", "cem", [("C", True), ("C", False)]),
    ]
    assert reports.label_contradictions(records) == [
        reports.LabelContradiction("p", "A", ("1",), ("2", "3"), ("ann",))
    ], "what one record says against itself is not between records"
    (_, found) = reports.label_contradictions(
        [*records, judged("5", "dot", [("C", True)])]
    )
    assert found[1:] == ("C", ("4", "5"), ("4",), ("cem",))
    other = dataclasses.replace(records[1], prompt="another")
    assert reports.label_contradictions([records[0], other]) == []


def test_ratings_of_one_attribute_contradict_between_records():
    records = [
        judged("1", "ann", ratings=[("A", "help", 4), ("B", "help", 2)]),
        judged("2", "ben", ratings=[("A", "help", 4), ("B", "help", 5)]),
        judged("3", "ben", ratings=[("A", "help", 3), ("B", "help", 3)]),
        judged("4", "ben", ratings=[("A", "tone", 1), ("B", "tone", 2)]),
        judged("5", "ann", ratings=[("A", "help", 1), ("A", "help", 2),
                                    ("B", "help", 2)]),
    ]  # fmt: skip
    found = reports.Contradiction("p", ("A", "B"), ("1",), ("2", "5"), ("ann",), "help")
    assert reports.rating_contradictions(records) == [found]
    assert reports.rating_contradictions(records[1:]) == [], "equal, or agreed"
    assert reports.contradictions(records) == [], "nothing is compared"


def test_records_that_agree_alone_may_go_in_a_circle_together():
    pairs = ["AB", "BC", "CA", "AD"]
    records = [said(pair, "ann", *pair) for pair in pairs]
    assert reports.circles(records[:2] + records[3:]) == []
    assert reports.contradictions(records) == []
    ((_, circle),) = reports.circles(records)
    assert circle[0] == circle[-1] and set(circle) == {"A", "B", "C"}
    assert all("".join(edge) in pairs for edge in itertools.pairwise(circle))
    other = dataclasses.replace(records[2], prompt="another")
    assert reports.circles([*records[:2], other]) == [], "of one prompt only"


def test_a_table_of_comparisons_measures_agreement():
    records = [
        said("1", "ann", "A", "B"), said("2", "ben", "B", "A"),
        said("3", "ann", "C", "D"), said("4", "ben", "C", "D"),
        said("5", "ann", "E", "F", tie=True), said("6", "ben", "F", "E"),
    ]  # fmt: skip
    table = tables.comparisons(records)
    assert table.annotators == ("ann", "ben")
    assert table.columns == (("p", "A", "B"), ("p", "C", "D"), ("p", "E", "F"))
    np.testing.assert_array_equal(table.values, [[1, 1, 0], [-1, 1, -1]])
    for level in ("nominal", "ordinal"):
        assert table.alpha(level) == agreement.krippendorff_alpha(table.values, level)
    agreed = [records[1], *records[2:4], said("7", "ann", "B", "A")]
    assert tables.comparisons(agreed).alpha("nominal") == 1.0


def test_tables_hold_what_several_annotators_judged():
    """Labels by majority, ratings by mean; what one alone judged is no column."""
    records = [
        judged("1", "ann", [("A", True), ("B", True)], [("A", "help", 5)]),
        judged("2", "ann", [("A", False), ("A", False)], [("A", "help", 3)]),
        judged("3", "ben", [("A", True), ("C", True)], [("A", "help", 1)]),
        judged("4", "ben", [("C", False)], [("A", "tone", 1), ("B", "help", 2)]),
        judged("5", "cem", [("C", True)]),
        dataclasses.replace(judged("6", "x", [("B", True)]), annotator=None),
    ]
    table = tables.labels(records)
    assert table.columns == (("p", "A"),), "of C, ben says nothing"
    np.testing.assert_array_equal(table.values, [[0], [1]])
    table = tables.ratings(records, "help")
    assert table.columns == (("p", "A"),) and table.annotators == ("ann", "ben")
    np.testing.assert_array_equal(table.values, [[0.75], [0]])
    assert tables.ratings(records, "tone").values.shape == (0, 0)
    assert np.isnan(tables.labels([]).alpha("nominal"))
