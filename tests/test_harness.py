"""Selection by identity and the count of skipped tests, on a small suite of its own."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

TESTS = pathlib.Path(__file__).parent

SUITE = '''
import pytest

@pytest.mark.identity("C18", "B11")
def test_ratio_is_one():
    """The ratio is 1."""

@pytest.mark.identity("B9")
def test_temperature():
    """Temperature."""

@pytest.mark.skip(reason="no torch here")
def test_parity(): ...
'''


NOTHING = """
import sys
from unittest.mock import MagicMock

config = settings = MagicMock()
config.values = {
    "jax_disable_most_optimizations": False,
    "jax_enable_compilation_cache": True,
}
config.update = config.values.__setitem__


def clear_caches():
    print("[cleared]")


sys.modules["jax.experimental"] = sys.modules[
    "jax.experimental.compilation_cache"
] = MagicMock()
"""


@pytest.fixture
def suite(tmp_path):
    """A folder with our conftest, three tests and one allowed skip."""
    (tmp_path / "tests").mkdir()
    shutil.copy(TESTS / "conftest.py", tmp_path / "tests")
    shutil.copytree(TESTS.parent / "scripts", tmp_path / "scripts")
    (tmp_path / "tests" / "test_suite.py").write_text(SUITE)
    # Stand-ins for what conftest sets up and this suite does not use.
    (tmp_path / "scripts" / "jax.py").write_text(NOTHING)
    (tmp_path / "scripts" / "hypothesis.py").write_text(NOTHING)
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\npythonpath = scripts\nmarkers = identity\n"
        "addopts = -p no:cacheprovider\n"
    )
    allow(tmp_path, 1)
    return tmp_path


def allow(suite, number):
    version = "{}.{}".format(*sys.version_info)
    (suite / "tests" / "allowed_skips.txt").write_text(f"# why\n{version} {number}\n")


def run(suite, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "xdist", *arguments],
        cwd=suite,
        env=os.environ | {"PYTEST_ADDOPTS": "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
    )


def test_skips_are_listed_counted_and_bounded(suite):
    result = run(suite)
    assert result.returncode == 0, result.stdout
    assert "1 skipped, 1 allowed" in result.stdout
    assert "test_suite.py::test_parity: no torch here" in result.stdout


def test_no_program_serves_two_kinds_of_tests(suite):
    """What was compiled with optimizations rounds otherwise than what was not: the
    files of a kind run together, and between kinds every program is dropped."""
    (suite / "tests" / "losses").mkdir()
    for number, folder in enumerate((".", "losses", ".", "losses"), 1):
        several = "".join(f"def test_{i}(): ...\n" for i in range(number))
        (suite / "tests" / folder / f"test_of_{number}.py").write_text(several)
    result = run(suite, "-s", "-v")
    assert result.returncode == 0, result.stdout
    files = re.findall(r"^tests/(\S+)\.py (\[cleared\])?", result.stdout, re.M)
    assert files == [
        ("losses/test_of_2", "[cleared]"),
        ("losses/test_of_4", ""),
        ("test_of_1", "[cleared]"),
        ("test_of_3", ""),
        ("test_suite", ""),
    ]


def test_too_many_skips_fail_also_with_workers(suite):
    """A file that skips itself, or that needs an absent torch, counts once."""
    (suite / "tests" / "test_file.py").write_text(
        "import pytest\npytest.importorskip('no_such_module')\n"
    )
    (suite / "tests" / "test_torch.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'torch'\")\n"
    )
    result = run(suite, "-n", "2")
    assert result.returncode == 1
    assert "3 skipped, 1 allowed" in result.stdout
    assert "test_torch.py: needs torch" in result.stdout
    assert "3 tests are skipped and allowed_skips.txt allows 1" in result.stdout


def test_another_absent_module_is_an_error(suite):
    (suite / "tests" / "test_bad.py").write_text("import no_such_module\n")
    assert run(suite).returncode == pytest.ExitCode.INTERRUPTED


def test_identities_select(suite):
    result = run(suite, "--id", "B11", "--id=B9")
    assert result.returncode == 0, result.stdout
    assert "2 passed" in result.stdout and "skipped" not in result.stdout


def test_unknown_identity_names_near_ones(suite):
    result = run(suite, "--id", "C81")
    assert result.returncode == pytest.ExitCode.USAGE_ERROR
    assert "no test carries the identity 'C81'; near ones: C18" in result.stderr


def test_newer_pythons_may_skip_the_files_that_need_torch_or_libtpu():
    """A new such file is told here, not first by the smoke run on a newer Python.

    Beside the files, three tests ask for torch themselves: greedy decoding, one for
    each family, and the products of the peers.
    """
    needs = re.compile(r"^(import torch|(\w+ = )?pytest\.importorskip)", re.MULTILINE)
    files = [p for p in TESTS.rglob("test_*.py") if needs.search(p.read_text())]
    rows = [
        line.split("#")[0].split()
        for line in (TESTS / "allowed_skips.txt").read_text().splitlines()
    ]
    numbers = {row[0]: int(row[1]) for row in rows if row}
    assert numbers == {"3.11": 0, "3.12": len(files) + 3, "3.13": len(files) + 3}
