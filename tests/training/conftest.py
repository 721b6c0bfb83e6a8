"""The toy run as a module, for all tests of this folder."""

import importlib.util
import sys
from pathlib import Path

import pytest


def _load(name: str, path: Path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def toy():
    """`toy_run.py`: a learner, its data and a two-stage run."""
    return _load("toy_run", Path(__file__).parent / "toy_run.py")


@pytest.fixture(scope="session")
def chaos():
    """`scripts/chaos.py` as a module."""
    root = Path(__file__).parents[2]
    return _load("chaos", root / "scripts" / "chaos.py")
