"""Entry point: parses the command line by hand, so that bad input is one line.

Exit codes: 0 done; 1 an error of ours; 2 bad input (one stderr line `error: ...`,
nothing overwritten); 143 stopped by SIGTERM after saving (run the same command again).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from rlhf_jax.cli import commands
from rlhf_jax.errors import UserError

DESCRIPTION = "Align language models from human feedback, in JAX."


class _Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are one `error:` line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see `{self.prog} --help`)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        settings, rest = split_settings(arguments)
        options = parser().parse_args(rest)
        if settings and not hasattr(options, "config"):
            first = next(iter(settings))
            raise UserError(f"--config.{first}: `{options.command}` takes no config")
        if hasattr(options, "config"):
            options.settings = settings
        return options.run(options)
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command continues from the last save")
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def split_settings(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Takes `--config.a.b=value` (or `--config.a.b value`) out of the arguments.

    Raises:
      UserError: a setting without a value.
    """
    settings: dict[str, str] = {}
    rest: list[str] = []
    pending = list(arguments)
    while pending:
        argument = pending.pop(0)
        if not argument.startswith("--config."):
            rest.append(argument)
            continue
        key, equals, value = argument[len("--config.") :].partition("=")
        if not equals:
            if not pending or pending[0].startswith("--"):
                raise UserError(f"--config.{key} needs a value: --config.{key}=VALUE")
            value = pending.pop(0)
        settings[key] = value
    return settings, rest


def parser() -> argparse.ArgumentParser:
    """The parser with every command; `--help` of each shows examples."""
    root = _Parser(prog="rlhf-jax", description=DESCRIPTION)
    added = root.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=_Parser
    )
    for command in commands.ALL:
        child = added.add_parser(
            command.name,
            help=command.summary,
            description=command.summary,
            epilog="examples:\n" + command.examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.arguments(child)
        child.set_defaults(run=command.run)
    return root
