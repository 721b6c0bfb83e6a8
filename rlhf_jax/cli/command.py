"""What a subcommand is."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NamedTuple

Parser = argparse.ArgumentParser
Options = argparse.Namespace


class Command(NamedTuple):
    """One subcommand."""

    name: str
    summary: str
    examples: str
    arguments: Callable[[Parser], None]
    run: Callable[[Options], int]
