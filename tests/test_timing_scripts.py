"""The scripts that time studies and starts: arithmetic and refusals, nothing timed."""

import json
import pathlib
import subprocess
import sys
import time

import first_update
import numpy as np
import pytest
import seed_cost

from rlhf_jax.cli import main as command_line
from rlhf_jax.training import loop

SINGLE = {
    "first": np.array([30.0, 50.0]),
    "warm": np.array([10.0, 14.0]),
    "own": np.array([6.0, 10.0]),
}


def call(script, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["script", *map(str, arguments)])
    script.main()


@pytest.mark.parametrize("script", [seed_cost, first_update])
def test_help_shows_the_commands(script, monkeypatch, capsys):
    with pytest.raises(SystemExit) as ended:
        call(script, monkeypatch, "--help")
    assert ended.value.code == 0
    assert f"python scripts/{script.__name__}.py" in capsys.readouterr().out


def test_the_overhead_is_what_a_study_takes_beyond_one_compilation():
    """Three seeds do 3 (10 + 6) = 48 seconds of work, 20 were compilation."""
    found = seed_cost.figures(SINGLE, np.array([20 + 48 * 1.25, 36 + 72.0]), 3)
    np.testing.assert_allclose(found["compilation"], [20, 36])
    np.testing.assert_allclose(found["work"], [48, 72])
    np.testing.assert_allclose(found["overhead"], [1.25, 1.0])


def test_the_cost_of_seeds_is_a_table(monkeypatch, capsys):
    asked = []

    def measure(seeds, variant):
        asked.append((seeds, variant))
        return seed_cost.figures(SINGLE, np.array([80.0, 108.0]), seeds)

    monkeypatch.setattr(seed_cost, "measure", measure)
    call(seed_cost, monkeypatch, "--seeds=3", "--variant=tiny")
    head, *rows, aim = capsys.readouterr().out.splitlines()
    assert asked == [(3, "tiny")] and head.split() == ["3", "seeds", "clock", "CPU"]
    assert len({len(row) for row in (head, *rows)}) == 1
    assert rows[-1].split() == ["overhead", "1.25", "1.00"] and aim.endswith("1.1")


def test_the_cost_of_no_seed_is_refused(monkeypatch, capsys):
    with pytest.raises(SystemExit) as ended:
        call(seed_cost, monkeypatch, "--seeds=0")
    assert ended.value.code == 2
    assert "--seeds=0 must be at least 1" in capsys.readouterr().err


def test_two_cells_of_the_study_are_left():
    found = seed_cost.config(2, "tiny").study
    assert [name for name, _ in found.terms] == [seed_cost.CELL] and found.seeds == 2


@pytest.fixture
def finished(tmp_path):
    """What the script reads of a finished quickstart."""
    for stage in ("sft", "ppo", "table"):
        (tmp_path / "run" / stage).mkdir(parents=True)
        (tmp_path / "run" / stage / "done.json").write_text("{}")
    (tmp_path / "run" / "config.json").write_text(json.dumps({"seed": 7}))
    return tmp_path / "run"


@pytest.mark.parametrize("cold", [False, True])
def test_a_copy_is_continued_three_times(finished, cold, monkeypatch, capsys):
    """Without `ppo` and `table`, under the run's seed; cold: with an empty cache."""
    calls, clock = [], iter([0.0, 1.5, 10.0, 12.25, 20.0, 20.5])

    def run(command, cwd, env, check):
        (workdir,) = (x for x in command if x.startswith("--workdir="))
        copy = pathlib.Path(workdir.removeprefix("--workdir="))
        cache = env.get("JAX_COMPILATION_CACHE_DIR")
        calls.append((sorted(x.name for x in copy.iterdir()), command, cache))

    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(first_update.time, "perf_counter", lambda: next(clock))
    call(first_update, monkeypatch, finished, *["--cold"] * cold)
    assert capsys.readouterr().out.split("\n") == ["1.5 s", "2.2 s", "0.5 s", ""]
    assert len(calls) == 3 and len({cache for *_, cache in calls}) == (3 if cold else 1)
    for kept, command, _ in calls:
        assert kept == ["config.json", "sft"] and "--config.seed=7" in command
    assert (finished / "ppo" / "done.json").is_file()


def test_a_run_without_ppo_is_refused(finished, monkeypatch, capsys):
    (finished / "ppo" / "done.json").unlink()
    with pytest.raises(SystemExit) as ended:
        call(first_update, monkeypatch, finished)
    assert ended.value.code == 2
    assert f"{finished} is no finished run" in capsys.readouterr().err


def test_the_process_ends_after_the_first_update_of_ppo(monkeypatch, capsys):
    """The hook leaves other stages alone, waits for what it stops after, and tells of
    every part when it ended."""

    class Ended(Exception):
        pass

    def leave(code):
        raise Ended(code)

    class Learner:
        def __init__(self, update):
            self.update = update

        _replace = classmethod(lambda cls, update: cls(update))

    updates = []
    monkeypatch.setattr(command_line, "main", lambda: 0)
    monkeypatch.setenv("BEGAN", str(time.time() - 3600))
    monkeypatch.setattr(first_update.os, "_exit", leave)
    monkeypatch.setattr(
        loop, "train", lambda learner, **_: [learner.update(0, 1, 2) for _ in range(2)]
    )
    with pytest.raises(SystemExit):
        exec(first_update.CONTINUED, {})
    learner = Learner(lambda *given: updates.append(given))
    loop.train(learner, stage="rm")
    assert len(updates) == 2
    with pytest.raises(Ended, match="0"):
        loop.train(learner, stage="ppo")
    assert len(updates) == 3
    told = [line.split(" s  ") for line in capsys.readouterr().out.splitlines()]
    before = "evaluation and samples before the first update"
    ready = "build, data, checkpoints"
    parts = ["imports", f"rm: {ready}", before, before, f"ppo: {ready}", before]
    assert [name for _, name in told] == [*parts, "first update"]
    assert all(3600 <= float(seconds) < 4000 for seconds, _ in told)
