"""Budgets and promises of the repository itself."""

import ast
import importlib.metadata
import os
import pathlib
import re
import statistics
import subprocess
import sys

import identities
import pytest

ROOT = pathlib.Path(__file__).parents[1]
CODE = sorted(
    p for d in ("rlhf_jax", "experiments", "scripts") for p in (ROOT / d).rglob("*.py")
)
PACKAGE = [p for p in CODE if p.is_relative_to(ROOT / "rlhf_jax")]
RECIPES = ROOT / "experiments"


def short(path):
    return path.relative_to(ROOT).as_posix()


def tracked():
    """Text of every tracked file; of all files where this is no git checkout."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True
    )
    names = listed.stdout.split("\0") if listed.returncode == 0 else []
    paths = [ROOT / n for n in names if n] or [
        p for p in ROOT.rglob("*") if not p.relative_to(ROOT).parts[0].startswith(".v")
    ]
    for path in paths:
        if path.is_file() and b"\0" not in (data := path.read_bytes()):
            yield short(path), data.decode("utf-8", errors="replace")


def functions(path):
    """(name, lines without the docstring) of every function of a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            doc = ast.get_docstring(node, clean=False) or ""
            lines = node.end_lineno - node.lineno + 1 - len(doc.splitlines())
            yield f"{short(path)}:{node.lineno} {node.name}", lines


def test_files_have_at_most_300_lines():
    long = {short(p): n for p in CODE if (n := len(p.read_text().splitlines())) > 300}
    assert not long


def test_functions_are_small():
    """The config of an experiment is data, however long."""
    code = [p for p in CODE if not p.is_relative_to(RECIPES)]
    sizes = dict(f for path in code for f in functions(path))
    assert not {name: n for name, n in sizes.items() if n > 80}
    lines = sorted(sizes.values())
    assert statistics.median(lines) <= 12
    assert lines[int(0.9 * len(lines))] <= 45


def config_defaults(source):
    """Lines where a default hides a dead or misspelt config key."""
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "getattr"
            and len(node.args) == 3
            and re.search(r"(^|[._])(config|cfg|c)$", ast.unparse(node.args[0]))
        ):
            yield node.lineno


def test_no_default_hides_a_config_key():
    for path in CODE:
        assert not list(config_defaults(path.read_text())), short(path)
    assert list(config_defaults("getattr(self.config, 'lr', 1.0)")) == [1]
    assert not list(config_defaults("getattr(config, name)"))


def undocumented(path):
    """Public modules, functions and classes without a docstring."""
    tree = ast.parse(path.read_text())
    if tree.body and not ast.get_docstring(tree):
        yield short(path)
    for node in tree.body:
        if (
            isinstance(node, ast.FunctionDef | ast.ClassDef)
            and not node.name.startswith("_")
            and not ast.get_docstring(node)
        ):
            yield f"{short(path)}:{node.lineno} {node.name}"


def test_everything_public_has_a_docstring():
    missing = [name for path in PACKAGE for name in undocumented(path)]
    assert not missing, "\n".join(missing)


def test_public_functions_are_annotated():
    """Arguments and results, so that beartype and a reader know them."""
    bare = [
        f"{short(path)}:{node.lineno} {node.name}"
        for path in PACKAGE
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
        if node.returns is None
        or any(a.annotation is None for a in node.args.args + node.args.kwonlyargs)
    ]
    assert not bare, "\n".join(bare)


MACHINE = [
    r"pypi\.org",
    r"pythonhosted\.org",
    r"download\.pytorch\.org",
    r"index[-]url",
    r"find[-]links",
    r"https?://\S+/simple\b",
    r"(?<![\w.])/(home|Users)/\w+/",
    r"(?<![\w.])/[r]oot/",
]


def test_nothing_names_this_machine_or_a_registry():
    patterns = [*MACHINE, r"(?<![\w.])" + re.escape(os.path.expanduser("~")) + "/"]
    top = ROOT.parts[1]
    if top not in ("tmp", "usr", "var"):
        patterns.append(rf"(?<![\w.])/{re.escape(top)}/")
    found = [
        f"{name}: {match[0]}"
        for name, text in tracked()
        for pattern in patterns
        if (match := re.search(pattern, text))
    ]
    assert not found, "\n".join(found)


def test_contributing_has_at_most_60_lines():
    assert len((ROOT / "CONTRIBUTING.md").read_text().splitlines()) <= 60


def test_identities_page_is_up_to_date():
    assert identities.PAGE.read_text(encoding="utf-8") == identities.page(), (
        "run: python scripts/identities.py --write"
    )


def test_every_required_identity_has_a_test():
    assert identities.missing() == []


def test_every_marked_test_states_its_fact():
    silent = [
        f"{test.path}::{test.name}"
        for tests in identities.collect().values()
        for test in tests
        if not test.statement
    ]
    assert not silent, "no docstring that states the fact: " + ", ".join(silent)


def executed_blocks(text):
    """Python blocks that follow an `<!-- executed -->` comment."""
    return re.findall(r"<!-- executed -->\s*```python\n(.*?)```", text, re.DOTALL)


def test_readme_blocks_run(tmp_path):
    """Each in an interpreter of its own, as a reader who copies it would."""
    blocks = executed_blocks((ROOT / "README.md").read_text())
    assert any("algorithms.ppo(" in block for block in blocks)
    for block in blocks:
        assert len(block.splitlines()) <= 40, block
        result = subprocess.run(
            [sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True
        )
        assert result.returncode == 0, result.stderr
        if "algorithms.ppo(" in block:
            first, *_, last = (float(x.split()[1]) for x in result.stdout.splitlines())
            assert first < 0.7 and last > 0.8


def test_only_marked_blocks_are_executed():
    text = (
        "```python\nno\n```\n<!-- executed -->\n\n```python\nyes\n```\n```sh\nno\n```"
    )
    assert executed_blocks(text) == ["yes\n"]


def pins(path):
    return dict(line.split("==") for line in path.read_text().splitlines())


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_constraints_are_plain_and_sorted(version):
    lines = (ROOT / "constraints" / f"{version}.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    names = [normal(line.split("==")[0]) for line in lines]
    assert names == sorted(set(names))
    exact = pins(ROOT / "constraints" / f"{version}.txt")
    assert exact["jax"].startswith("0.10." if version == "3.11" else "0.12.")
    assert ("torch" in exact) == (version == "3.11")


def installed_closure(name, extras):
    """Every distribution that `name[extras]` brings into this environment."""
    from packaging.requirements import Requirement

    seen, todo = set(), [(name, frozenset(extras))]
    while todo:
        current, wanted = todo.pop()
        if (normal(current), wanted) in seen:
            continue
        seen.add((normal(current), wanted))
        for line in importlib.metadata.requires(current) or []:
            need = Requirement(line)
            names = wanted or {""}
            if need.marker is None or any(
                need.marker.evaluate({"extra": e}) for e in names
            ):
                todo.append((need.name, frozenset(need.extras)))
    return {dependency for dependency, _ in seen} - {normal(name)}


def test_constraints_name_everything_that_is_installed():
    """Direct and transitive dependencies, at the version that these tests ran with."""
    version = "{}.{}".format(*sys.version_info)
    exact = {
        normal(n): v for n, v in pins(ROOT / "constraints" / f"{version}.txt").items()
    }
    here = {
        name: importlib.metadata.version(name).split("+")[0]
        for name in installed_closure("rlhf_jax", ["dev"])
    }
    assert {name: exact.get(name) for name in here} == here
