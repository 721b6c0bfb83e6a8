"""docs/claims.md grows from pieces, and knows no claim that is not there."""

import importlib.util
import pathlib

from rlhf_jax.studies import reproduction
from rlhf_jax.studies.reproduction import table

ROOT = pathlib.Path(__file__).parents[1]


def script():
    spec = importlib.util.spec_from_file_location("claims", ROOT / "scripts/claims.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def row(id, effect):
    part = dict(name="", verdict="holds", effect=effect, ci=[0.0, 1.0], threshold="> 0")
    about = dict(id=id, statement="a | b", verdict="holds", full_scale="none", seeds=2)
    return {**about, "parts": [part], "seconds": 3.0, "cpu_seconds": 0.1}


def test_new_rows_replace_old_ones_and_unknown_ones_go():
    page = table.markdown([row("A", 0.25), row("B", 0.5), row("gone", 0.5)])
    found = script().merged(page, [row("A", 0.75), row("C", 0.5)], ["C", "A", "B", "D"])
    assert found == table.markdown([row("C", 0.5), row("A", 0.75), row("B", 0.5)])
    assert "3, < 1" in found


def test_the_page_has_only_claims_that_are_there():
    known = {one.id for one in reproduction.read(ROOT / "experiments/claims")}
    lines = (ROOT / "docs/claims.md").read_text().splitlines()
    rows = [line.split("|")[1].strip() for line in lines if line.startswith("| ")]
    assert rows[0] == "id" and set(rows[2:]) <= known
