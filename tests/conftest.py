"""Settings of all tests, selection by identity, and the count of skipped tests."""

import collections
import difflib
import os
import pathlib
import sys
import tempfile

# Before jax is imported: one CPU device, no network, no program kept by earlier runs.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "PYTEST_XDIST_WORKER" not in os.environ:
    PROGRAMS = tempfile.TemporaryDirectory(prefix="programs-")
    """Compiled programs, shared by all tests of a run and the processes they start."""
    os.environ["JAX_COMPILATION_CACHE_DIR"] = PROGRAMS.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import hypothesis  # noqa: E402
import identities  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402
from jax.experimental.compilation_cache import compilation_cache  # noqa: E402

# [B T] with [T] is an error: which axis was meant must be written.
jax.config.update("jax_numpy_rank_promotion", "raise")

# The same examples on every machine; the first call of a test compiles.
hypothesis.settings.register_profile(
    "rlhf_jax", derandomize=True, deadline=None, database=None, max_examples=25
)
hypothesis.settings.load_profile("rlhf_jax")

HERE = pathlib.Path(__file__).parent
QUICK = (
    "algorithms",
    "build",
    "cli",
    "experiments",
    "losses",
    "rollout",
    "training",
    "worlds",
    "test_smoke.py",
)
"""Folders and files whose tests compile much, in a third less time without most of
XLA's optimizations. Tests of what the compiler makes are marked `optimized`."""

ALLOWED_SKIPS = HERE / "allowed_skips.txt"


def pytest_addoption(parser):
    parser.addoption(
        "--id",
        action="append",
        default=[],
        metavar="ID",
        help="run the tests of one identity, bug or invariant (C18, B9, I4); "
        "may be given several times",
    )


def pytest_configure(config):
    wanted = config.getoption("--id")
    if not wanted:
        return
    known = set(identities.collect())
    for name in wanted:
        if name not in known:
            near = difflib.get_close_matches(name, sorted(known), cutoff=0.0)
            raise pytest.UsageError(
                f"no test carries the identity {name!r}; "
                f"near ones: {', '.join(near) or 'none'}"
            )


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Before its fixtures, of whatever scope: how programs are compiled."""
    if not item.path.is_relative_to(HERE):
        return
    quick = is_quick(item) and not item.get_closest_marker("optimized")
    if quick != jax.config.values["jax_disable_most_optimizations"]:
        # Or of two calls one could take a program of an earlier file, which rounds
        # otherwise: jax does not ask with which optimizations it was compiled.
        jax.clear_caches()
    jax.config.update("jax_disable_most_optimizations", quick)
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = str(int(quick))  # for processes
    # What a program takes is asked of the compiler, not of a program kept on disk.
    kept = not item.get_closest_marker("optimized")
    if kept != jax.config.values["jax_enable_compilation_cache"]:
        jax.config.update("jax_enable_compilation_cache", kept)
        compilation_cache.reset_cache()  # jax asks the setting once


def is_quick(item):
    """Whether the file of a test is one of `QUICK`."""
    return item.path.is_relative_to(HERE) and (
        item.path.relative_to(HERE).parts[0] in QUICK
    )


def pytest_collection_modifyitems(config, items):
    # Files of few tests first: they train whole chains, and none should start last.
    # Those of one kind together: every change between kinds compiles anew.
    size = collections.Counter(item.path for item in items)
    items.sort(key=lambda item: (not is_quick(item), size[item.path]))
    wanted = set(config.getoption("--id"))
    if not wanted:
        return

    def ids(item):
        return {x for mark in item.iter_markers("identity") for x in mark.args}

    chosen = [item for item in items if ids(item) & wanted]
    config.hook.pytest_deselected(items=[i for i in items if not ids(i) & wanted])
    items[:] = chosen


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    """torch comes with Python 3.11 only (setup.py): a file that needs it is skipped."""
    report = yield
    if report.failed and "No module named 'torch'" in str(report.longrepr):
        report.outcome = "skipped"
        report.longrepr = (str(collector.path), None, "Skipped: needs torch")
    return report


def allowed_skips():
    """The committed number of skips for this Python version (0 where none is)."""
    version = "{}.{}".format(*sys.version_info)
    rows = (
        line.split("#")[0].split() for line in ALLOWED_SKIPS.read_text().splitlines()
    )
    return {row[0]: int(row[1]) for row in rows if row}.get(version, 0)


def skipped(config):
    """Test or file -> reason, for every skip that this process was told of."""
    reporter = config.pluginmanager.getplugin("terminalreporter")
    reports = reporter.stats.get("skipped", []) if reporter else []
    # Every worker reports a file that skips itself: by name, it counts once.
    return {r.nodeid: r.longrepr[2].removeprefix("Skipped: ") for r in reports}


def pytest_sessionfinish(session):
    if hasattr(session.config, "workerinput"):
        return
    if len(skipped(session.config)) > allowed_skips() and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter):
    found, allowed = skipped(terminalreporter.config), allowed_skips()
    if found:
        terminalreporter.section(f"{len(found)} skipped, {allowed} allowed")
        for name, reason in found.items():
            terminalreporter.write_line(f"{name}: {reason}")
    if len(found) > allowed:
        terminalreporter.write_line(
            f"ERROR: {len(found)} tests are skipped and {ALLOWED_SKIPS.name} allows "
            f"{allowed}: unskip them or raise the number and say why",
            red=True,
        )
