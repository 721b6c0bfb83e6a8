"""Measuring claims: kept one by one, resumed, written out."""

import itertools
import json
import math
import re

import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.studies import reproduction as rep

FULL = rep.FullScale("Pythia 6.9B, 4 seeds", "win rate <b>0.75</b>")


def make(id, measure, threshold=None, **options):
    options = {"seeds": (0, 1, 2), "version": 1} | options
    threshold = threshold or rep.Above(0.5)
    return rep.Claim(
        id=id, paper="Paper 2020", statement=f"{id} > 0.5", protocol="two arms",
        measure=measure, threshold=threshold, full_scale=FULL, **options,
    )  # fmt: skip


class Counting:
    def __init__(self, base=1.0, die_at=None):
        self.base, self.die_at, self.calls = base, die_at, []

    def __call__(self, seed):
        if len(self.calls) == self.die_at:
            raise KeyboardInterrupt
        self.calls.append(seed)
        return self.base + seed / 10


def clock():
    return itertools.count().__next__


def run(claims, folder, progress=None):
    found = rep.execute(claims, folder, progress, clock())
    rep.write(found, folder)
    return found


def test_results_have_the_promised_rows(tmp_path):
    (found,) = run([make("A", Counting())], tmp_path)
    (row,) = json.loads((tmp_path / "results.json").read_text())
    assert list(row)[:6] == ["id", "verdict", "effect", "ci", "seeds", "seconds"]
    assert row["id"] == "A" and row["verdict"] == found.verdict == "holds"
    assert row["effect"] == pytest.approx(1.1) and row["seeds"] == 3
    assert row["ci"][0] == pytest.approx(1.1 - 2.919986 * 0.1 / math.sqrt(3))
    assert row["seconds"] == 3 and 0 <= row["cpu_seconds"] < 60
    assert row["parts"][0]["values"] == {"0": 1.0, "1": 1.1, "2": 1.2}


def test_killed_and_run_again_only_the_missing_seeds_are_measured(tmp_path):
    first, second = Counting(), Counting(die_at=1)
    with pytest.raises(KeyboardInterrupt):
        run([make("A", first), make("B", second)], tmp_path)
    assert first.calls == [0, 1, 2] and second.calls == [0]
    again, rest, seen = Counting(), Counting(), []
    found = run([make("A", again), make("B", rest)], tmp_path, seen.append)
    assert again.calls == [] and rest.calls == [1, 2]
    assert [step.fresh for step in seen] == [False] * 4 + [True] * 2
    assert (seen[-1].done, seen[-1].total, seen[-1].claim) == (6, 6, "B")
    whole = run([make("A", Counting()), make("B", Counting())], tmp_path / "whole")
    assert [r.findings for r in found] == [r.findings for r in whole]


def test_another_version_is_measured_anew(tmp_path):
    run([make("A", Counting())], tmp_path)
    changed = Counting(base=-1.0)
    (found,) = run([make("A", changed, version=2)], tmp_path)
    assert changed.calls == [0, 1, 2] and found.verdict == "fails"


SOURCE = """
from rlhf_jax.studies import reproduction as rep
def measure(seed):
    return {} + seed
CLAIM = rep.Claim("A", "p", "s", "x", (0, 1), measure, rep.Above(0.5),
                  rep.FullScale("r", "n"))
"""


def test_a_claim_whose_file_changed_is_measured_anew(tmp_path):
    folder = tmp_path / "claims"
    folder.mkdir()
    verdicts = []
    for base in (10.0, 10.0, -30.0):
        (folder / "a.py").write_text(SOURCE.format(base))
        seen = []
        (found,) = run(rep.read(folder), tmp_path, seen.append)
        verdicts.append((found.findings[0].effect, seen[0].fresh))
    assert verdicts == [(10.5, True), (10.5, False), (-29.5, True)]


def test_more_seeds_keep_those_that_are_there(tmp_path):
    run([make("A", Counting())], tmp_path)
    more = Counting()
    (found,) = run([make("A", more, seeds=(0, 1, 2, 3))], tmp_path)
    assert more.calls == [3] and len(found.findings[0].values) == 4


def test_a_measurement_without_its_quantity_is_named(tmp_path):
    wrong = make("A", lambda seed: {"b": 1.0}, {"a": rep.Above()})
    with pytest.raises(UserError, match="threshold for 'a', but it measured 'b'"):
        run([wrong], tmp_path)
    one = make("A", lambda seed: 1.0, {"a": rep.Above()})
    with pytest.raises(UserError, match="'a'"):
        run([one], tmp_path)


def test_everything_is_checked_before_anything_is_measured(tmp_path):
    first = Counting()
    with pytest.raises(UserError, match="one seed has no interval"):
        run([make("A", first), make("B", Counting(), seeds=(1,))], tmp_path)
    assert not first.calls


def test_what_is_not_finite_is_kept_and_undecided(tmp_path):
    claim = make("A", lambda seed: math.nan if seed else 1.0)
    for _ in range(2):
        (found,) = run([claim], tmp_path)
        assert found.verdict == "undecided"
    text = (tmp_path / "results.json").read_text()
    (row,) = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert row["effect"] is None and row["parts"][0]["values"]["1"] is None


def test_the_row_of_several_quantities_is_that_of_the_one_that_decides(tmp_path):
    both = {"good": rep.Above(), "bad": rep.Above()}
    claim = make("A", lambda seed: {"good": 1.0 + seed, "bad": -5.0 - seed}, both)
    run([claim], tmp_path)
    (row,) = json.loads((tmp_path / "results.json").read_text())
    assert row["verdict"] == "fails" and row["effect"] == -6.0
    assert [part["verdict"] for part in row["parts"]] == ["holds", "fails"]


def test_the_page_keeps_small_world_and_paper_apart(tmp_path):
    run([make("A", Counting()), make("B", Counting(-3.0))], tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert "2 claims: 1 holds, 1 fails." in text
    assert "win rate &lt;b&gt;0.75" in text and "Pythia 6.9B" in text
    assert not re.search(r"(src|href)\s*=|url\(|@import|https?://", text)
    here, paper = text.split("In the paper, at full scale")[:2]
    assert (
        "Found here, on a CPU" in here and "Pythia" not in here.split("Found here")[1]
    )
    assert "<table" not in paper.split("</section>")[0].split("<details")[0]


def test_the_summary_for_a_terminal(tmp_path):
    both = {"good": rep.Above(), "bad": rep.Above()}
    mixed = make("BB", lambda seed: {"good": 1.0 + seed, "bad": -5.0 - seed}, both)
    found = run([make("A", Counting()), mixed], tmp_path)
    first, second = rep.summary(found).splitlines()
    assert first == "A   holds      1.10 (0.93 to 1.27), asked > 0.5"
    assert second.startswith("BB  fails      bad: −6.0 (")
