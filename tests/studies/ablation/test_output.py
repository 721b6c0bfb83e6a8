"""What a study writes: tables, curves, the page."""

import csv
import html
import io
import json
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from rlhf_jax import stats
from rlhf_jax.studies import ablation, digits, forest
from rlhf_jax.studies.ablation import curves, plots, records, tables, words


@pytest.fixture
def folder(tmp_path, world, make_plan):
    plan = make_plan(question="Does <b>it</b> matter?", seed_kinds=["init", "data"])
    run = world(diverge=[("without KL penalty", 3)])
    ablation.study(plan, run, tmp_path)
    return tmp_path


def test_the_json_is_strict_and_has_no_times(folder):
    text = (folder / "ablation.json").read_text()
    value = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert "seconds" not in text and value["complete"]
    rows = {(row["cell"], row["metric"]): row for row in value["comparisons"]}
    assert len(rows) == 8
    one = rows["without KL penalty", "gold"]
    assert one["verdict"] == "up" and one["diverged"] == 1
    assert one["difference"]["n"] == 7 and len(one["values"]) == 7
    assert value["plan"]["cells"][1]["changes"] == {"ppo.kl_coef": 0.0}


def test_the_csv_has_a_row_a_metric_and_cell_with_all_digits(folder):
    rows = list(csv.DictReader(io.StringIO((folder / "ablation.csv").read_text())))
    value = json.loads((folder / "ablation.json").read_text())
    assert len(rows) == 8
    for row, of in zip(rows, value["comparisons"], strict=True):
        assert (row["metric"], row["cell"]) == (of["metric"], of["cell"])
        assert float(row["mean"]) == of["mean"]
        if of["verdict"] != "baseline":
            assert float(row["difference"]) == of["difference"]["mean"]
            assert float(row["p_adjusted"]) == of["p_adjusted"]


def test_the_markdown_table_has_as_many_cells_a_row(folder):
    text = (folder / "ablation.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 * (2 + 4) and len({row.count("|") for row in rows}) == 1
    assert "sign flips" in text and "↑ up, better" in text


def test_latex_escapes_what_latex_reads(tmp_path, world, make_plan):
    cells = (
        ablation.Cell("base_1", {}, True),
        ablation.Cell("50% & {x}^2 | #", {"a": 1}),
    )
    found = ablation.study(make_plan(cells=cells), world(), tmp_path)
    text = (tmp_path / "ablation.tex").read_text()
    assert r"base\_1" in text
    assert r"50\% \& \{x\}\textasciicircum{}2 | \#" in text
    assert all(line.count("&") == 7 + line.count(r"\&") for line in _rows(text))
    assert text.isascii()
    assert "50% & {x}^2 \\| #" in tables.to_markdown(found)


def _rows(text):
    return [line for line in text.splitlines() if line.endswith(r"\\")]


def test_the_page_asks_nothing_of_a_network_and_escapes(folder):
    text = (folder / "report.html").read_text()
    assert "default-src 'none'" in text
    assert not re.search(r"(src|href)\s*=|url\(|@import|https?://(?!www\.w3)", text)
    assert "<b>it</b>" not in text and "&lt;b&gt;it" in text
    assert "nan" not in re.sub(r"data-y=\"[^\"]*\"|is nan", "", text)


def test_the_page_says_what_a_reader_needs(folder):
    text = re.sub(r"<[^>]+>", " ", (folder / "report.html").read_text())
    for wanted in (
        "3 changes against one baseline, 8 seeds each",
        "without KL penalty raised it",
        "higher is better",
        "Diverged, left out: without KL penalty, seed 3, step 7",
        "Gold against KL",
        "ppo.kl_coef: 0.05 →  0.0",
        "Hedges",
        "95 % interval",
    ):
        assert wanted in text, wanted
    assert "Not drawn" not in text


def test_every_svg_is_well_formed(folder):
    text = (folder / "report.html").read_text()
    plots = re.findall(r"<svg.*?</svg>", text, re.S)
    assert len([p for p in plots if 'class="forest"' in p]) == 2
    assert len([p for p in plots if 'class="plot"' in p]) == 1 + 2
    for plot in plots:
        ElementTree.fromstring(plot)


def test_many_cells_get_a_plot_of_curves_each(tmp_path, world, make_plan):
    cells = [ablation.Cell(f"c{i}", {"a": i}, i == 0) for i in range(6)]
    ablation.study(make_plan(seeds=range(2), cells=cells), world(), tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert text.count('class="plot"') == 1 + 2 * 5


def test_a_study_in_progress_has_a_page_too(tmp_path, world, make_plan):
    plan = make_plan(seeds=range(3))
    with pytest.raises(KeyboardInterrupt):
        ablation.study(plan, world(die_at=6), tmp_path)
    found = ablation.rewrite(tmp_path)
    assert len(found.missing) == 6
    assert "6 runs are not there yet" in (tmp_path / "report.html").read_text()


def test_without_curves_or_gold_the_page_leaves_their_sections_out(tmp_path, make_plan):
    def run(cell, seed):
        return ablation.Outcome({"gold": seed + len(cell.name), "kl": 1.0})

    ablation.study(make_plan(seeds=range(3), gold="", kl=""), run, tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert "Over training" not in text and "Gold against KL" not in text


def test_a_plot_that_no_run_gives_is_told_of(tmp_path, world, make_plan):
    """One that is drawn, one that no run has, one that a single cell lacks."""
    measured = world()

    def run(cell, seed):
        found = measured(cell, seed)
        curves = {"gold": found.curves["gold"]}
        if cell.name != "without entropy":
            curves["kl"] = found.curves["kl"]
        return found._replace(curves=curves)

    names = {"curves": ["gold", "kl", "loss/x"], "gold": "gold", "kl": "loss/y"}
    found = ablation.study(make_plan(seeds=range(2), **names), run, tmp_path)
    kept = records.read_all(found.plan, tmp_path)
    told = plots.missing(found, kept)
    assert told == [
        "Not drawn: kl over training for without entropy: the runs there have no 'kl'.",
        "Not drawn: loss/x over training: the runs have no 'loss/x'.",
        "Not drawn: gold against KL: the runs have not both 'gold' and 'loss/y', as"
        " curves or as metrics.",
    ]
    page = html.unescape((tmp_path / "report.html").read_text())
    assert all(text in page for text in told) and page.count("Not drawn") == 3


def test_bands_are_means_with_t_intervals_of_the_seeds_that_have_a_step(make_plan):
    plan = make_plan(seeds=range(4))
    rows = [([0, 1, 2], [1.0, 2.0, 3.0]), ([0, 1], [3.0, np.nan]), ([0, 2], [2.0, 5.0])]
    found = [
        records.Record(
            "all terms",
            seed,
            {},
            {"gold": (np.asarray(x, float), np.asarray(y))},
            np.zeros(0),
        )
        for seed, (x, y) in enumerate(rows)
    ]
    wild = {"gold": (np.zeros(1), np.full(1, 99.0))}
    found.append(records.Record("all terms", 3, {}, wild, np.zeros(0), "nan"))
    band = curves.band(plan, found, "all terms", "gold")
    np.testing.assert_array_equal(band.steps, [0, 1, 2])
    np.testing.assert_allclose(band.mean, [2.0, 2.0, 4.0])
    first = stats.mean([1.0, 3.0, 2.0])
    last = stats.mean([3.0, 5.0])
    expected = [first.high - first.mean, np.nan, last.high - last.mean]
    np.testing.assert_allclose(band.half, expected)
    assert curves.band(plan, found, "all terms", "kl") is None


def test_changes_are_told_against_the_baseline(make_plan):
    cells = ablation.add_one_in(
        [
            ablation.Term("kl", {"ppo.kl_coef": 0.0}),
            ablation.Term("new", {"ppo.new": None}),
        ]
    )
    plan = make_plan(cells=cells)
    only_kl, only_new, both = plan.others
    assert words.changes(plan, only_kl) == {"ppo.kl_coef": ("0.0", "0.05")}
    assert words.changes(plan, only_new) == {"ppo.new": ("null", "(config)")}
    assert len(words.changes(plan, both)) == 2


@pytest.mark.parametrize(
    ("ends", "text"),
    [
        ((-0.123, 0.456), "−0.12 to 0.46"),
        ((12.3, 45.6), "12 to 46"),
        ((-0.0004, 0.0002), "−0.00040 to 0.00020"),
        ((1.0, 1.0), "1 to 1"),
        ((float("nan"), 1.0), "–"),
    ],
)
def test_intervals_have_the_digits_that_their_width_needs(ends, text):
    assert digits.interval(*ends) == text


@pytest.mark.parametrize(
    ("p", "text"), [(0.5, "0.50"), (0.0123, "0.012"), (1e-9, "< 0.0001")]
)
def test_p_values_are_short(p, text):
    assert words.p_value(p) == text


def test_forest_rows_stay_inside_their_frame_and_long_names_are_cut():
    effects = [
        forest.Effect("a" * 80, "+1.0 (0.5 to 1.5)", 1.0, 0.5, 1.5),
        forest.Effect("no pair", "–", float("nan")),
        forest.Effect("one", "−3", -3.0),
    ]
    text = forest.draw(effects, x_label="x <y>", margin=0.2)
    root = ElementTree.fromstring(text)
    width, height = map(int, root.get("viewBox").split()[2:])
    circles = list(root.iter("circle"))
    assert len(circles) == 2
    for circle in circles:
        assert 0 < float(circle.get("cx")) < width
        assert 0 < float(circle.get("cy")) < height
    assert "…" in text and text.count('class="margin"') == 3
    ElementTree.fromstring(forest.draw([], x_label="empty"))


def test_the_summary_for_a_terminal(tmp_path, world, make_plan):
    run = world(diverge=[("without entropy", 1)])
    found = ablation.study(make_plan(), run, tmp_path)
    gold, kl, lost = ablation.summary(found).splitlines()
    assert gold.startswith("gold: without KL penalty raised it by")
    assert "without whitening lowered it by" in gold and "1 undecided" in gold
    assert kl.startswith("kl: no difference")
    assert lost == "diverged: without entropy, seed 1, step 7: loss/policy is nan"
