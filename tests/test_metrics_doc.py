"""docs/metrics.md lists every metric that the package logs, and no other."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NAME = re.compile(r"[a-z_]+(/[a-z0-9_<>]+)+")

NOT_METRICS = {"term", "term_gradient_norm", "metric", "tok"}
"""First parts of other keys: those of the debug dump and of the progress bar."""

OUTSIDE = {"studies", "networks"}
"""Folders that log no metric, with paths and parameters for keys."""

ROWS = {"eval", "optim"}
"""Families whose names are put together from parts at run time."""


def documented() -> set[str]:
    """Names in the first column of the tables."""
    names = set()
    for line in (ROOT / "docs/metrics.md").read_text().splitlines():
        if line.startswith("| `"):
            first = line.split("|")[1]
            names |= set(re.findall(r"`([^`]+)`", first))
    return names


def text_of(node: ast.AST) -> str | None:
    """A string literal; the holes of an f-string as `<name>`."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts = [text_of(value) or "<name>" for value in node.values]
        return "".join(parts)
    return None


def keys(tree: ast.AST) -> Iterator[str]:
    """String keys of dict displays, dict comprehensions and subscripts."""
    for node in ast.walk(tree):
        found: list[ast.AST | None] = []
        if isinstance(node, ast.Dict):
            found = list(node.keys)
        elif isinstance(node, ast.DictComp):
            found = [node.key]
        elif isinstance(node, ast.Subscript):
            found = [node.slice]
        for key in found:
            text = None if key is None else text_of(key)
            if text is not None and NAME.fullmatch(text):
                yield text


def logged() -> dict[str, str]:
    """Metric-like keys of the package -> a file that has them."""
    names = {}
    for path in sorted((ROOT / "rlhf_jax").rglob("*.py")):
        if OUTSIDE & set(path.parts):
            continue
        for name in keys(ast.parse(path.read_text())):
            if name.split("/")[0] not in NOT_METRICS:
                names[name] = str(path.relative_to(ROOT))
    return names


def covers(pattern: str, name: str) -> bool:
    """Whether names agree where either may have a hole."""
    one, other = (re.sub(r"<[a-z]+>", "*", text) for text in (pattern, name))

    def matches(a: str, b: str) -> bool:
        return re.fullmatch(re.escape(a).replace(r"\*", "[a-z0-9_*]+"), b) is not None

    return matches(one, other) or matches(other, one)


def test_every_metric_of_the_package_is_documented():
    """Kills: a metric that is logged without a word on what it is."""
    names = documented()
    missing = {
        name: path
        for name, path in logged().items()
        if not any(covers(known, name) for known in names)
    }
    assert not missing, f"write these into docs/metrics.md: {missing}"


def test_every_documented_metric_is_logged():
    """Kills: a name that was changed in the code and not in the document."""
    found = logged()
    stale = [
        name
        for name in documented()
        if name.split("/")[0] not in ROWS
        and not any(covers(name, known) for known in found)
    ]
    # Put together from the name of a term's stream.
    assert set(stale) <= {"language/nll", "pretraining/nll"}


def test_every_measure_of_an_evaluation_is_documented():
    from rlhf_jax.rollout import evaluate

    missing = {f"eval/{name}" for name in evaluate.MEASURES} - documented()
    assert not missing


def test_the_plots_of_the_report_are_of_documented_metrics():
    from rlhf_jax.studies import panels

    names = documented()
    for panel in panels.PANELS:
        for line in panel.lines:
            assert any(name in names for name in line.names), (panel.title, line)


@pytest.mark.parametrize(
    ("pattern", "name", "same"),
    [
        ("loss/<name>", "loss/value", True),
        ("objective/kl_k1", "objective/kl_<name>", True),
        ("objective/kl", "objective/kl_coef", False),
        ("optim/<group>/lr", "optim/value/lr", True),
        ("loss/<name>", "loss/a/b", False),
    ],
)
def test_names_with_holes(pattern, name, same):
    assert covers(pattern, name) is same
