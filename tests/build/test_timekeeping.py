"""The seconds of a stage are those of all processes that worked on it."""

import contextlib
import json
import types

import pytest

from rlhf_jax.build import experiment
from rlhf_jax.build.runs import timekeeping
from rlhf_jax.build.runs.context import Context, Stage
from rlhf_jax.build.runs.timekeeping import Timekeeper
from rlhf_jax.errors import UserError
from rlhf_jax.training.stopping import Preempted
from rlhf_jax.training.writers import Writer


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when a test says so: `clock.now += 3`."""
    found = types.SimpleNamespace(now=100.0)
    fake = types.SimpleNamespace(monotonic=lambda: found.now)
    monkeypatch.setattr(timekeeping, "time", fake)
    return found


@pytest.fixture
def run(tmp_path, clock):
    """`run(work)` is a process that works on the stage `rm`."""

    def process(work):
        context = Context(*[None] * len(Context._fields))._replace(
            workdir=tmp_path,
            placement=types.SimpleNamespace(active=contextlib.nullcontext),
            settings={"rm": {}},
            writers=[],
        )
        clock.now += 1000.0  # another process starts, at any time

        def stage():
            work(context.writers)
            return {}

        experiment._run_stage(context, Stage("rm", stage, dict))
        assert context.writers == []
        return json.loads((tmp_path / "rm" / "done.json").read_text())["seconds"]

    return process


def test_a_keeper_is_a_writer(tmp_path):
    assert isinstance(Timekeeper(tmp_path), Writer)


def test_processes_that_were_killed_or_stopped_count(run, clock, tmp_path):
    """A killed one up to its last checkpoint, a stopped one up to the signal."""

    def killed(writers):
        clock.now += 5.0
        for writer in writers:
            writer.flush()  # as the loop does before each checkpoint
        clock.now += 90.0  # lost, and done again
        raise KeyboardInterrupt

    def stopped(writers):
        clock.now += 7.0
        raise Preempted("SIGTERM")

    def to_its_end(writers):
        clock.now += 2.0

    for work, error in ((killed, KeyboardInterrupt), (stopped, Preempted)):
        with pytest.raises(error):
            run(work)
    assert run(to_its_end) == 5.0 + 7.0 + 2.0
    assert [path.name for path in (tmp_path / "rm").iterdir()] == ["done.json"]


def test_input_that_is_refused_leaves_nothing(run, tmp_path):
    def refuse(writers):
        raise UserError("no")

    with pytest.raises(UserError, match="no"):
        run(refuse)
    assert not (tmp_path / "rm").exists()


@pytest.mark.parametrize("text", ["{", '{"seconds": "5"}', "{}"])
def test_a_damaged_sum_is_named(tmp_path, text):
    (tmp_path / "seconds.json").write_text(text)
    with pytest.raises(UserError, match="seconds.json"):
        Timekeeper(tmp_path)
