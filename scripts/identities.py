"""Write docs/identities.md: the facts that tests hold true, from their markers.

    python scripts/identities.py            # compare; exit code 1 where stale
    python scripts/identities.py --write    # regenerate
    python scripts/identities.py --missing  # required ids without a test

A test that carries `@pytest.mark.identity("C18")` states the fact in the first
paragraph of its docstring. Ids are C (identities), B (bugs, shown by putting them in)
and I (invariants that other codebases have violated).
"""

import argparse
import ast
import pathlib
import re
import sys
from collections.abc import Iterator
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / "docs" / "identities.md"


def numbered(letter: str, *spans: tuple[int, int]) -> list[str]:
    """`numbered("C", (31, 33))` is C31, C32, C33."""
    return [f"{letter}{n}" for low, high in spans for n in range(low, high + 1)]


REQUIRED = [
    *["C9", "C11", "C14", "C15", "C18", "C19", "C22", "C24"],
    *numbered("C", (31, 34), (38, 38)),
    *numbered("B", (1, 18), (22, 25), (27, 27), (29, 32)),
    *numbered("I", (1, 17), (19, 25), (27, 28)),
]
"""What must have a test. I18 (ORPO) and I26 (reward bands) belong to methods that do
not exist here yet."""


class Test(NamedTuple):
    """One marked test: path from the root, function name, statement, its ids."""

    path: str
    name: str
    statement: str
    ids: tuple[str, ...]


def _marker_ids(node: ast.AST) -> list[str]:
    """Ids of the `identity(...)` markers anywhere below a node."""
    return [
        argument.value
        for call in ast.walk(node)
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr == "identity"
        for argument in call.args
        if isinstance(argument, ast.Constant)
    ]


def _tests_of(node: ast.AST, path: str, outer: list[str]) -> Iterator[Test]:
    """Marked tests below a module or class; a class hands its ids down."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            ids = outer + [i for d in child.decorator_list for i in _marker_ids(d)]
            if isinstance(child, ast.ClassDef):
                yield from _tests_of(child, path, ids)
            elif ids and child.name.startswith("test"):
                paragraph = (ast.get_docstring(child) or "").split("\n\n")[0]
                statement = " ".join(paragraph.split())
                yield Test(path, child.name, statement, tuple(dict.fromkeys(ids)))


def scan(path: pathlib.Path) -> list[Test]:
    """Marked tests of one file; raises ValueError on a marker of nothing."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    name = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)
    shared = [
        i
        for node in tree.body
        if isinstance(node, ast.Assign)
        and any(isinstance(t, ast.Name) and t.id == "pytestmark" for t in node.targets)
        for i in _marker_ids(node)
    ]
    tests = list(_tests_of(tree, name, shared))
    lost = set(_marker_ids(tree)) - {i for test in tests for i in test.ids}
    if lost:
        raise ValueError(f"{name}: no test function for the markers {sorted(lost)}")
    return tests


def collect(root: pathlib.Path = ROOT / "tests") -> dict[str, list[Test]]:
    """Id -> the tests that carry it, ids in their natural order."""
    found: dict[str, list[Test]] = {}
    for path in sorted(root.rglob("test_*.py")):
        for test in scan(path):
            for name in test.ids:
                found.setdefault(name, []).append(test)
    return dict(sorted(found.items(), key=lambda item: _order(item[0])))


def _order(name: str) -> tuple[int, int]:
    match = re.fullmatch(r"([CBI])(\d+)[a-z]?", name)
    if not match:
        raise ValueError(f"{name!r} is no id: C, B or I and a number")
    return "CBI".index(match[1]), int(match[2])


def missing() -> list[str]:
    """Required ids that no test carries."""
    found = collect()
    return [name for name in REQUIRED if name not in found]


HEAD = """# What the tests hold true

Written by `scripts/identities.py --write` from the markers of the tests; do not edit.
`scripts/test.sh --id C18` runs the tests of one row. A test of a bug puts the bug in
and shows that its check notices.
"""
TITLES = {"C": "Identities", "B": "Bugs", "I": "Invariants"}


def page() -> str:
    """The text of docs/identities.md."""
    lines, letter = [HEAD], ""
    for name, tests in collect().items():
        if name[0] != letter:
            letter = name[0]
            lines += [
                f"\n## {TITLES[letter]}\n",
                "| id | fact | test |",
                "|---|---|---|",
            ]
        for test in tests:
            fact = test.statement.replace("|", "\\|")
            lines.append(f"| {name} | {fact} | `{test.path}::{test.name}` |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="regenerate the page")
    parser.add_argument("--missing", action="store_true", help="required, without test")
    options = parser.parse_args()
    if options.missing:
        print(" ".join(missing()) or "none is missing")
        return 0
    text = page()
    if options.write:
        PAGE.write_text(text, encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
        print(f"{PAGE.name} is stale: run scripts/identities.py --write")
        return 1
    if absent := missing():
        print("required and without a test yet:", " ".join(absent))
    return 0


if __name__ == "__main__":
    sys.exit(main())
