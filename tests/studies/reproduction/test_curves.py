"""Curves beside quantities, further seeds, and the table of a document."""

import json
import math

import numpy as np
import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.studies import reproduction as rep
from rlhf_jax.studies.reproduction import curves, output, table

PLOT = rep.Plot("KL [nats]", "gold <sd>", "How to read it.", root_x=True)


def measure(seed):
    x = [0.0, 1.0 + seed, 2.0]
    drawn = [
        rep.Curve("A panel", "gold", x, [0.0, 1.0, seed], color="gold"),
        rep.Curve("A panel", "gold", x, [0.0, 1.0, 1.0], kind="fit", color="gold"),
        rep.Curve("A panel", "learner", [1.0], [0.5 + seed], kind="point"),
        rep.Curve("Another", "proxy", x, [1.0, math.nan, 3.0]),
    ]
    return rep.Measured({"a": 1.0 + seed / 10, "beside": float(seed)}, drawn)


def claim(measure=measure, **options):
    options = {"seeds": (0, 1, 2), "plot": PLOT} | options
    return rep.Claim(
        id="A", paper="p", statement="s | t", protocol="x", measure=measure,
        threshold={"a": rep.Above(0.5)}, full_scale=rep.FullScale("r", "n"), **options,
    )  # fmt: skip


def run(folder, one):
    found = rep.execute([one], folder)
    rep.write(found, folder)
    return found[0]


def test_curves_are_kept_averaged_and_drawn(tmp_path):
    run(tmp_path, claim())
    rep.write(rep.execute([claim()], tmp_path), tmp_path)  # from what is kept
    page = (tmp_path / "report.html").read_text()
    assert page.count("<figure>") == 2
    assert "A panel" in page and "Another" in page and "How to read it." in page
    assert "gold &lt;sd&gt;" in page and "gold, fit" in page and "learner" in page


def test_the_mean_of_curves_has_standard_errors_over_seeds():
    found = curves.mean({seed: measure(seed).curves for seed in (0, 1, 2)})
    gold, errors = found[0]
    np.testing.assert_allclose(gold.x, [0.0, 2.0, 2.0])
    np.testing.assert_allclose(gold.y, [0.0, 1.0, 1.0])
    np.testing.assert_allclose(errors.y, [0.0, 0.0, 1 / np.sqrt(3)])
    np.testing.assert_allclose(errors.x, [0.0, 1 / np.sqrt(3), 0.0])


def test_curves_that_differ_between_seeds_are_refused():
    one = rep.Curve("P", "gold", [0.0, 1.0], [0.0, 1.0])
    for other in ([one._replace(x=[0.0], y=[0.0])], [one._replace(label="x")], []):
        with pytest.raises(UserError, match="not the same under every seed"):
            curves.mean({0: [one], 1: other})


def test_quantities_without_a_threshold_decide_nothing_and_are_told(tmp_path):
    found = run(tmp_path, claim())
    assert found.verdict == "holds"
    (beside,) = found.beside
    assert beside.name == "beside" and beside.effect == 1.0
    assert beside.low == pytest.approx(1.0 - 4.302653 / math.sqrt(3), rel=1e-5)
    (row,) = json.loads((tmp_path / "results.json").read_text())
    assert row["beside"][0]["name"] == "beside" and len(row["parts"]) == 1
    assert ">beside<" in (tmp_path / "report.html").read_text()


def test_further_seeds_are_measured_in_the_release_alone(tmp_path):
    one = claim(further_seeds=(7, 8), suites=("nightly", "release"))
    (nightly,) = rep.select([one], suite="nightly")
    (release,) = rep.select([one], suite="release")
    assert nightly.seeds == (0, 1, 2) and release.seeds == (0, 1, 2, 7, 8)
    run(tmp_path, nightly)
    seen = []
    rep.execute([release], tmp_path, seen.append)
    assert [step.seed for step in seen if step.fresh] == [7, 8]
    with pytest.raises(UserError, match="all different"):
        rep.checked([claim(further_seeds=(2,))])


def test_the_table_has_a_row_a_claim(tmp_path):
    run(tmp_path, claim())
    text = (tmp_path / "claims.md").read_text()
    rows = json.loads((tmp_path / "results.json").read_text())
    assert text == table.markdown(rows)
    head, rule, row = [line for line in text.splitlines() if line.startswith("|")]
    assert head.count(" | ") == rule.count(" | ") == 6
    assert row.startswith("| A | s \\| t | holds | a: 1.10 (0.93 to 1.27), > 0.5 | 3 |")


def test_the_table_shows_the_quantity_that_decides():
    both = {"good": rep.Above(), "bad": rep.Above()}
    one = claim()._replace(threshold=both)
    measured = {s: {"good": 1.0 + s, "bad": -5.0 - s} for s in (0, 1, 2)}
    found = rep.judge(one, measured)
    text = table.markdown(output.rows([found]))
    assert "| **fails** | bad: −6.0 (" in text and "> 0; 1 more |" in text
