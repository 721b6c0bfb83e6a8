"""A user's own scorer on the command line: what goes wrong names file and sample."""

import pytest
from command_line import TINY

ALONE = (
    "--config.stages=ppo",
    "--config.ppo.policy=init",
    "--config.ppo.reference=init",
    "--config.ppo.value.init=policy",
    "--config.model.num_layers=1",
    "--config.task.response_length=2",
    "--config.logging.progress=false",
)
"""PPO without any stage before it."""

BROKEN = [
    ("def fn(prompts, responses, records) return", "cannot be loaded: SyntaxError"),
    ("import no_such_package_at_all", "cannot be loaded: ModuleNotFoundError"),
    ("def other(prompts, responses, records): return []", "no function 'fn'"),
    ("fn = 3", "not a function"),
]


@pytest.fixture
def scorer(tmp_path):
    """Writes a scorer file; gives the argument that names it."""

    def write(text):
        path = tmp_path / "mine.py"
        path.write_text(text + "\n")
        return f"--config.scorer={path}:fn"

    return write


@pytest.mark.parametrize(("text", "said"), BROKEN)
def test_a_scorer_that_cannot_be_had_stops_at_the_door(
    refused, scorer, tmp_path, text, said
):
    workdir = tmp_path / "run"
    message = refused("train", TINY, *ALONE, scorer(text), f"--workdir={workdir}")
    assert "mine.py" in message and said in message
    assert not workdir.exists()


def test_a_score_that_is_no_number_stops_and_names_the_sample(
    refused, scorer, tmp_path
):
    text = "def fn(prompts, responses, records):\n"
    text += "    return [1.0, float('nan')] + [0.0] * (len(prompts) - 2)"
    workdir = tmp_path / "run"
    message = refused("train", TINY, *ALONE, scorer(text), f"--workdir={workdir}")
    assert "mine.py:fn" in message and "nan" in message and "sample 1 (id " in message
    assert not list(workdir.glob("ppo/done.json"))
