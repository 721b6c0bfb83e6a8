"""The runner: order, kill and resume, divergence, dead factors."""

import itertools
import random
import re

import numpy as np
import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.studies import ablation, files
from rlhf_jax.studies.ablation import records, runner

OUTPUTS = ("ablation.json", "ablation.csv", "ablation.md", "ablation.tex")


def contents(folder):
    return {name: (folder / name).read_bytes() for name in (*OUTPUTS, "report.html")}


def test_seeds_are_the_outer_loop_and_the_baseline_runs_first(
    tmp_path, world, make_plan
):
    plan, run = make_plan(seeds=[3, 1]), world()
    ablation.execute(plan, run, tmp_path)
    names = [cell.name for cell in plan.cells]
    assert run.calls == list(itertools.product([3, 1], names))
    assert run.calls[0] == (3, "all terms")


@pytest.mark.parametrize("seed", range(3))
def test_killed_three_times_at_random_the_files_are_those_of_a_whole_run(
    tmp_path, world, make_plan, seed
):
    plan = make_plan(seeds=range(4))
    diverge = [("without entropy", 2)]
    ablation.study(plan, world(diverge=diverge), tmp_path / "whole")
    draw, calls = random.Random(seed), []
    for _ in range(3):
        run = world(diverge=diverge, die_at=draw.randrange(1, 5))
        with pytest.raises(KeyboardInterrupt):
            ablation.study(plan, run, tmp_path / "killed")
        calls += run.calls
    run = world(diverge=diverge)
    ablation.study(plan, run, tmp_path / "killed")
    calls += run.calls
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert len(calls) == len(set(calls)) == 16


def test_killed_while_a_file_is_written_leaves_no_half_of_it(
    tmp_path, world, make_plan, monkeypatch
):
    plan = make_plan(seeds=range(2))
    replace, count = files.os.replace, itertools.count()

    def dies(source, target):
        if next(count) == 4:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        ablation.study(plan, world(), tmp_path / "killed")
    monkeypatch.undo()
    assert list((tmp_path / "killed").rglob("*.partial"))
    ablation.study(plan, world(), tmp_path / "killed")
    ablation.study(plan, world(), tmp_path / "whole")
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_what_is_done_is_found_and_told_so(tmp_path, world, make_plan):
    plan, seen = make_plan(seeds=range(2)), []
    first = ablation.execute(plan, world(), tmp_path)
    run = world()
    second = ablation.execute(plan, run, tmp_path, seen.append)
    assert not run.calls and not any(step.fresh for step in seen)
    assert [step.done for step in seen] == list(range(1, 9)) and seen[0].total == 8
    for a, b in zip(first, second, strict=True):
        assert (a.cell, a.seed, a.metrics, a.seconds) == (
            b.cell,
            b.seed,
            b.metrics,
            b.seconds,
        )
        np.testing.assert_array_equal(a.gradients, b.gradients)


def test_a_diverged_run_is_recorded_and_the_others_go_on(tmp_path, world, make_plan):
    plan = make_plan(seeds=range(3))
    run = world(diverge=[("without entropy", 1)], nan=[("without whitening", 0)])
    found = ablation.study(plan, run, tmp_path)
    assert len(run.calls) == 12
    assert found.diverged == [
        {
            "cell": "without whitening",
            "seed": 0,
            "step": -1,
            "reason": "gold is not finite (nan)",
        },
        {
            "cell": "without entropy",
            "seed": 1,
            "step": 7,
            "reason": "loss/policy is nan",
        },
    ]
    one = found.of("without entropy", "gold")
    assert one.diverged == 1 and list(one.values) == [0, 2] and one.difference.n == 2
    assert list(found.of("without whitening", "kl").values) == [1, 2]
    again = world()
    ablation.study(plan, again, tmp_path)
    assert not again.calls


def test_a_diverged_baseline_leaves_the_pairs_of_the_other_seeds(
    tmp_path, world, make_plan
):
    run = world(diverge=[("all terms", 1)])
    found = ablation.study(make_plan(seeds=range(4)), run, tmp_path)
    one = found.of("without entropy", "gold")
    assert len(one.values) == 4 and one.difference.n == 3


def test_other_exceptions_go_through(tmp_path, make_plan):
    def run(cell, seed):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ablation.execute(make_plan(), run, tmp_path)


def test_a_run_without_a_metric_of_the_plan_is_named(tmp_path, make_plan):
    def run(cell, seed):
        return ablation.Outcome({"gold": 1.0})

    with pytest.raises(UserError, match="'all terms' ended without the metric 'kl'"):
        ablation.execute(make_plan(), run, tmp_path)
    assert not list((tmp_path / "results").rglob("*.json"))


def test_a_term_without_any_effect_on_the_gradients_stops_the_study(
    tmp_path, world, make_plan
):
    plan, run = make_plan(seeds=range(3)), world(dead=["without whitening"])
    with pytest.raises(UserError, match=r"dead factor: leaving out 'whitening'.*False"):
        ablation.study(plan, run, tmp_path)
    assert files.read_json(tmp_path / "dead.json")["dead"] == ["without whitening"]
    assert not (tmp_path / "ablation.json").exists()
    assert run.calls[-1] == (2, "without whitening")
    again = world(dead=["without whitening"])
    with pytest.raises(UserError, match="dead factor"):
        ablation.study(plan, again, tmp_path)
    assert not again.calls


def of(cell, seed, gradients, diverged=""):
    norms = np.asarray(gradients, np.float64)
    return records.Record(cell, seed, {}, {}, norms, diverged)


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ([[1, 2], [3, 4]], True),
        ([[1, 2], [3, 4.0000001]], False),
        ([[1, 2], [3]], False),
        ([[1, 2], None], True),
        ([None, None], False),
    ],
    ids=["equal", "one step differs", "shorter", "one diverged", "all diverged"],
)
def test_dead_is_equal_at_every_step_of_every_seed(make_plan, own, expected):
    plan = make_plan(seeds=range(2))
    cell = plan.cells[1]
    found = [of("all terms", seed, g) for seed, g in enumerate([[1, 2], [3, 4]])]
    found += [
        of(cell.name, seed, g or [], "nan" if g is None else "")
        for seed, g in enumerate(own)
    ]
    assert runner.dead(plan, cell, found) is expected


def test_without_gradients_or_for_other_cells_nothing_is_called_dead(make_plan):
    plan = make_plan(seeds=[0])
    cell = plan.cells[1]
    silent = [of("all terms", 0, []), of(cell.name, 0, [])]
    assert not runner.dead(plan, cell, silent)
    other = cell._replace(leaves_out="")
    found = [of("all terms", 0, [1]), of(cell.name, 0, [1])]
    assert runner.dead(plan, cell, found) and not runner.dead(plan, other, found)


def test_a_cell_name_may_hold_anything(tmp_path, world, make_plan):
    names = ["a/b", "a b", "../..", "ä=1, β=[2]"]
    cells = [ablation.Cell("all terms", {}, True)]
    cells += [ablation.Cell(name, {"a": name}) for name in names]
    plan = make_plan(seeds=[0], cells=cells)
    found = ablation.execute(plan, world(), tmp_path)
    assert len({records.path(plan, c, 0, tmp_path) for c in cells}) == 5
    assert [r.cell for r in found] == [c.name for c in cells]
    folders = {p.parent.parent for p in tmp_path.rglob("seed-0.json")}
    assert folders == {tmp_path / "results"}


def packed(run, seen=None, lose=()):
    def pack(cell, seeds):
        if seen is not None:
            seen.append((cell.name, tuple(seeds)))
        found = {}
        for seed in seeds:
            try:
                found[seed] = run(cell, seed)
            except ablation.Diverged as ended:
                found[seed] = ended
        return {seed: one for seed, one in found.items() if seed not in lose}

    return pack


def test_packed_seeds_give_the_files_of_single_runs(tmp_path, world, make_plan):
    plan, seen = make_plan(seeds=range(3)), []
    diverge = [("without entropy", 1)]
    ablation.study(plan, world(diverge=diverge), tmp_path / "single")
    with pytest.raises(KeyboardInterrupt):
        ablation.study(plan, world(diverge=diverge, die_at=5), tmp_path / "packed")
    run = world(diverge=diverge)
    ablation.study(plan, run, tmp_path / "packed", pack=packed(run, seen))
    assert contents(tmp_path / "packed") == contents(tmp_path / "single")
    assert seen == [
        ("all terms", (2,)),
        ("without KL penalty", (1, 2)),
        ("without whitening", (1, 2)),
        ("without entropy", (1, 2)),
    ]


def test_a_pack_must_answer_for_every_seed_and_finds_dead_factors(
    tmp_path, world, make_plan
):
    plan = make_plan(seeds=range(2))
    with pytest.raises(UserError, match="left seed 1 out"):
        runner.execute_packed(plan, packed(world(), lose=[1]), tmp_path / "a")
    dead = packed(world(dead=["without whitening"]))
    with pytest.raises(UserError, match="dead factor"):
        runner.execute_packed(plan, dead, tmp_path / "b")


def test_progress_is_a_line_of_text(tmp_path, world, make_plan):
    lines = []
    run = world(diverge=[("without whitening", 0)])
    plan = make_plan(seeds=[0])
    ablation.execute(plan, run, tmp_path, lambda step: lines.append(str(step)))
    assert re.fullmatch(r"1/4 all terms, seed 0: done in [01]\.\d s", lines[0])
    assert lines[2] == "3/4 without whitening, seed 0: diverged (loss/policy is nan)"
    ablation.execute(plan, run, tmp_path, lambda step: lines.append(str(step)))
    assert lines[-1] == "4/4 without entropy, seed 0: found"
