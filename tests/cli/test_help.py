"""Every command explains itself, quickly and with examples."""

import shlex
import subprocess
import sys

import pytest

from rlhf_jax.build.commands import checking
from rlhf_jax.cli import commands, main


@pytest.mark.parametrize("name", [command.name for command in commands.ALL])
def test_each_command_has_help_with_examples(capsys, name):
    with pytest.raises(SystemExit) as exit:
        main.main([name, "--help"])
    assert exit.value.code == 0
    text = capsys.readouterr().out
    assert "examples:" in text and f"rlhf-jax {name} " in text


EXAMPLES = [
    pytest.param(command, line.split()[1:], id=line.strip())
    for command in commands.ALL
    for line in command.examples.splitlines()
]


@pytest.mark.parametrize(("command", "words"), EXAMPLES)
def test_the_examples_are_commands_that_run(command, words):
    """Their options exist, and so do their experiments, the keys that they set and the
    claims; `check`, which needs nothing else, runs unless it asks for a directory."""
    settings, rest = main.split_settings(shlex.split(" ".join(words)))
    options = main.parser().parse_args(rest)
    options.settings = settings
    assert options.run is command.run
    if hasattr(options, "config"):
        config = commands._load(options)
        if command.name == "check" and "model.path" not in settings:
            assert checking.describe(config)
    if command.name == "reproduce":
        options.list = True
        assert command.run(options) == 0


def test_the_help_lists_every_command(capsys):
    with pytest.raises(SystemExit):
        main.main(["--help"])
    text = capsys.readouterr().out
    for name in ("train", "check", "generate", "score", "export", "report", "digest"):
        assert f"\n    {name} " in text


def test_help_does_not_wait_for_jax():
    code = (
        "import sys; from rlhf_jax.cli.main import parser; parser().format_help();"
        "sys.exit('jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_settings_may_follow_an_equals_sign_or_a_space():
    arguments = ["train", "--config.a.b=1=2", "--x", "--config.c", "3"]
    settings, rest = main.split_settings(arguments)
    assert settings == {"a.b": "1=2", "c": "3"} and rest == ["train", "--x"]
