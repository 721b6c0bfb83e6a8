"""Views: what a loss takes of feedback, and the count of what it does not."""

from __future__ import annotations

import pytest

from rlhf_jax.data import feedback
from rlhf_jax.data.feedback import shares, views

RESPONSES = [{"id": x, "text": f"text {x}"} for x in "abcd"]


def make(id="q", **said):
    row = {"id": id, "prompt": "p", "responses": RESPONSES, **said}
    return feedback.parse(row, "")


def rating(response, value, attribute="overall"):
    return {"response": response, "attribute": attribute, "value": value,
            "low": 1, "high": 5}  # fmt: skip


def texts(view):
    return [record.responses for record in view.records]


@pytest.mark.identity("B26", "B28")
def test_pairs_of_a_ranking_share_its_weight_and_ties_are_no_wins():
    """A tie is no preference: dropped and counted; a prompt's pairs weigh one."""
    view = views.pairs([make(ranking=[["b"], ["a", "c"]], weight=1.5)])
    assert texts(view) == [("text b", "text a"), ("text b", "text c")]
    assert all(record.ranks == (1, 2) for record in view.records)
    assert [record.weight for record in view.records] == [0.75, 0.75]
    assert [record.id for record in view.records] == ["q/b>a", "q/b>c"]
    assert view.dropped == {"tie: no preference": 1}

    def wins(ranking):  # the bug: a tie as a win of the first
        return [(a, b) for i, a in enumerate(ranking) for b in ranking[i + 1 :]]

    assert len(wins(["b", "a", "c"])) > len(view.records)


def test_pairs_count_every_reason():
    said = {
        "pairs": [
            {"better": "a", "worse": "b", "strength": 3},
            {"better": "a", "worse": "b"},
            {"better": "c", "worse": "d", "tie": True},
        ],
        "labels": [{"response": "a", "good": True}],
        "comments": [{"text": "x"}, {"text": "y"}],
    }
    only_label = make("r", labels=[{"response": "a", "good": True}])
    view = views.pairs([make(**said), only_label])
    assert texts(view) == [("text a", "text b")] and view.records[0].margin == 0
    assert view.dropped == {
        "comparison: stated twice": 1,
        "tie: no preference": 1,
        "strength: not used without margin": 1,
        "labels: not used": 2,
        "comments: not used": 2,
        "record: no comparison": 1,
    }
    assert views.pairs([make(**said)], margin=0.5).records[0].margin == 1.5


def test_pairs_by_rating():
    record = make(
        ratings=[rating("a", 5), rating("b", 2), rating("c", 2), rating("b", 4, "x")]
    )
    view = views.pairs([record], attribute="overall", margin=1.0)
    assert texts(view) == [("text a", "text b"), ("text a", "text c")]
    assert [r.margin for r in view.records] == [0.75, 0.75]
    assert view.dropped == {
        "tie: no preference": 1, "response: no rating of 'overall'": 1,
    }  # fmt: skip
    same = feedback.parse(
        {"id": "s", "prompt": "p", "ratings": [rating("a", 5), rating("b", 2)],
         "responses": [{"id": x, "text": "same"} for x in "ab"]}, "",
    )  # fmt: skip
    view = views.pairs([same], attribute="overall")
    assert view.records == () and view.dropped["identical responses"] == 1
    view = views.rankings([same], attribute="overall")
    assert view.records == () and view.dropped["identical responses"] == 1


def test_rankings_keep_ties_and_leave_the_rest_at_zero():
    view = views.rankings([make(ranking=[["b"], ["a", "d"]])])
    assert view.records[0].ranks == (2, 1, 0, 2)
    assert view.records[0].responses == tuple(f"text {x}" for x in "abcd")
    assert view.dropped == {"response: not ranked": 1}
    assert view.dataset("x").records == view.records
    view = views.rankings(
        [make(ratings=[rating("a", 5), rating("c", 3), rating("d", 3)])],
        attribute="overall",
    )
    assert view.records[0].ranks == (1, 0, 2, 2)


def test_rankings_from_pairs_where_a_ranking_holds_them():
    chain = [("a", "b"), ("b", "d"), ("a", "d")]
    pairs = [{"better": x, "worse": y} for x, y in chain]
    view = views.rankings([make(pairs=pairs)])
    assert view.records[0].ranks == (1, 2, 0, 3)
    tied = [*pairs, {"better": "c", "worse": "b", "tie": True}]
    assert views.rankings([make(pairs=tied)]).records[0].ranks == (1, 2, 2, 3)
    partial = [{"better": "a", "worse": "b"}, {"better": "c", "worse": "d"}]
    view = views.rankings([make(pairs=partial)])
    assert view.records == ()
    assert view.dropped == {
        "order: partial, no ranking holds it": 1, "record: no order": 1,
    }  # fmt: skip
    assert len(views.pairs([make(pairs=partial)]).records) == 2
    only_ties = make(ranking=[["a", "b"]])
    assert views.rankings([only_ties]).dropped == {"record: no order": 1}


def test_labels():
    record = make(
        labels=[
            {"response": "a", "good": True},
            {"response": "b", "good": False},
            {"response": "c", "good": True},
            {"response": "c", "good": False},
        ],
        ranking=[["d"], ["a"], ["b"]],
    )
    view = views.labels([record])
    assert [(r.response, r.good) for r in view.records] == [
        ("text a", True), ("text b", False),
    ]  # fmt: skip
    assert view.dropped == {"label: good and bad at once": 1, "ranking: not used": 3}
    view = views.labels([make(ranking=[["d"], ["a"], ["b"]])], from_comparisons=True)
    assert {(r.response, r.good) for r in view.records} == {
        ("text d", True), ("text b", False),
    }  # fmt: skip


def test_labels_of_ratings_are_the_extremes():
    rated = [rating(name, value) for name, value in zip("abc", (5, 3, 2), strict=True)]
    record = make(ratings=rated, labels=[{"response": "c", "good": True}])
    view = views.labels([record], from_comparisons=True, attribute="overall")
    assert [(r.response, r.good) for r in view.records] == [
        ("text c", True), ("text a", True),
    ]  # fmt: skip
    assert view.dropped == {}
    view = views.labels(
        [make(ratings=rated[:1] * 2)], from_comparisons=True, attribute="overall"
    )
    assert view.records == () and view.dropped == {"record: no label": 1}


def test_one_text_is_not_good_and_bad_at_once():
    """Also where two responses have the same text."""
    said = [{"response": x, "good": x == "a"} for x in "ab"]
    same = [{"id": x, "text": "same" if x in "ab" else x} for x in "abc"]
    record = make(responses=same, labels=[*said, {"response": "c", "good": True}])
    view = views.labels([record])
    assert [r.response for r in view.records] == ["c"]
    assert view.dropped == {"label: good and bad at once": 2}


def test_ratings_are_scaled_and_averaged():
    record = make(
        ratings=[
            rating("a", 5), rating("a", 3), rating("a", 1, "honest"), rating("b", 2),
            rating("b", 2, "other"),
        ]
    )  # fmt: skip
    view = views.ratings([record], ["overall", "honest"])
    assert len(view.records) == 1
    assert view.records[0].ratings == {"overall": 0.75, "honest": 0.0}
    assert view.dropped == {
        "rating: attribute 'other' not asked for": 1,
        "response: no rating of 'honest'": 1,
    }


def test_demonstrations():
    edited = make(
        "e", edits=[{"response": "a", "text": "better"}], ranking=[["b"], ["a"]]
    )
    ranked = make("r", ranking=[["b"], ["a"]])
    shared = make("s", ranking=[["a", "b"], ["c"]])
    view = views.demonstrations([edited, ranked])
    assert [r.response for r in view.records] == ["better"]
    assert view.dropped["record: nothing to imitate"] == 1
    view = views.demonstrations([edited, ranked, shared], best=True)
    assert [r.response for r in view.records] == ["better", "text b"]
    assert view.dropped == {
        "best response: several share the place": 1, "record: nothing to imitate": 1,
    }  # fmt: skip


def test_win_shares_count_all_comparisons_of_a_prompt():
    """Annotators, rankings and ties together; other prompts apart."""
    said = [
        make("one", ranking=[["a"], ["b"], ["c"]]),
        make("two", ranking=[["b"], ["a"]]),
        make("three", ranking=[["a", "b"]]),
        feedback.parse({**feedback.row(make("four", ranking=[["c"], ["a"]])),
                        "prompt": "q"}, ""),
    ]  # fmt: skip
    assert shares.win_shares(said) == {
        ("p", "text a"): (1 + 1 + 0 + 0.5) / 4,
        ("p", "text b"): (0 + 1 + 1 + 0.5) / 4,
        ("p", "text c"): 0.0,
        ("q", "text c"): 1.0,
        ("q", "text a"): 0.0,
    }
    rated = make(ratings=[rating("a", 5), rating("b", 2), rating("c", 2)])
    found = shares.win_shares([rated], attribute="overall")
    assert [found["p", f"text {x}"] for x in "abc"] == [1.0, 0.25, 0.25]
