"""Entry point: parses the command line by hand, so that bad input is one line.

Exit codes: 0 done; 1 an error of ours; 2 bad input (one stderr line `error: ...`,
nothing overwritten); 143 stopped by SIGTERM after saving (run the same command again).
Where several processes make up the run, all end with the code of the one that fails.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
import time
import traceback
from collections.abc import Sequence
from typing import NoReturn

from rlhf_jax.build.runs import joining, leaving
from rlhf_jax.cli import commands
from rlhf_jax.errors import UserError

DESCRIPTION = "Align language models from human feedback, in JAX."

FULL = (errno.ENOSPC, errno.EDQUOT)
"""What a full disk or quota says."""


class _Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are one `error:` line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see `{self.prog} --help`)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = _run(arguments)
        joining.part()
    except UserError as error:
        code = _refused(str(error))
    except KeyboardInterrupt:
        line = "interrupted; the same command continues from the last save"
        _end_others(130, line)
        print(line)
        code = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as error:
        if isinstance(error, OSError) and error.errno in FULL:
            code = _refused(
                f"cannot write {error.filename or 'a file'}: {error.strerror}; once"
                " there is room, the same command continues"
            )
        else:
            if leaving.joined():
                time.sleep(2.0)  # where another process has died, a launcher ends this
            _end_others(1, traceback.format_exc())
            raise
    return code


def _refused(message: str) -> int:
    """One `error:` line, and the code of bad input."""
    line = f"error: {' '.join(message.split())}"
    _end_others(2, line)
    print(line, file=sys.stderr)
    return 2


def _run(arguments: Sequence[str]) -> int:
    if arguments[:1] == ["train"]:
        joining.join()
    else:
        joining.alone(" ".join(["rlhf-jax", *arguments[:1]]))
    settings, rest = split_settings(arguments)
    options = parser().parse_args(rest)
    if settings and not hasattr(options, "config"):
        first = next(iter(settings))
        raise UserError(f"--config.{first}: `{options.command}` takes no config")
    if hasattr(options, "config"):
        options.settings = settings
    return options.run(options)


def _end_others(code: int, line: str) -> None:
    """Where the run has several processes: says why, and ends them all."""
    if leaving.joined():
        leaving.leave(code, line)


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
