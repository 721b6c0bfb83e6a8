"""The page: complete, closed, escaped, for one run, several, and half a run."""

import json
import re
from html.parser import HTMLParser

import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.studies import assets, panels, report, runs, schema

VOID = {"meta", "input", "br"}


class Page(HTMLParser):
    """Checks that tags nest; keeps tags, attributes and text."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.attributes, self.text = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def page(workdirs, tmp_path):
    text = report.write(workdirs, tmp_path / "report.html").read_text()
    return Page(text), text


def titles(text):
    return re.findall(r"<h4>(.*?)</h4>", text)


def test_one_run_shows_everything_the_contract_names(tmp_path, fake_run):
    found, text = page([fake_run(tmp_path / "run")], tmp_path)
    for title in (
        "Gold and proxy reward",
        "Gold against KL",
        "Gold against KL, square-root axis",
        "Entropy",
        "Response length",
        "Loss: clipped_surrogate",
        "Loss: value/loss",
        "Value: explained variance",
        "Clip fraction",
        "KL coefficient",
        "Compiled programs",
        "Time per phase",
    ):
        assert title in titles(text)
    shown = "".join(found.text)
    assert "PPO raised the gold reward" in shown
    for row in ("SFT", "best of 16", "PPO"):
        assert row in shown
    assert "recall of the salient words" in shown
    assert "orders 81.2 % of held-out pairs" in shown
    assert "ppo.kl_coef" in shown


def test_page_makes_no_request(tmp_path, fake_run):
    found, text = page([fake_run(tmp_path / "run")], tmp_path)
    assert "default-src 'none'" in text
    assert not {"link", "img", "iframe", "object"} & set(found.tags)
    assert not {"src", "href", "xlink:href"} & {name for name, _ in found.attributes}
    for forbidden in ("http:", "https:", "@import", "url(", "fetch(", "XMLHttp"):
        assert forbidden not in text


def test_same_runs_give_the_same_bytes(tmp_path, fake_run):
    workdir = fake_run(tmp_path / "run")
    assert page([workdir], tmp_path)[1] == page([workdir], tmp_path)[1]


def test_every_metric_is_plotted_once(tmp_path, fake_run):
    """Kills: a metric that neither a panel nor the section of the others shows."""
    workdir = fake_run(tmp_path / "run")
    (run,) = runs.read([workdir])
    _, text = page([workdir], tmp_path)
    for stage, curves in run.stages.items():
        for name in set(curves) - panels.shown(curves):
            assert f'aria-label="{name}"' in text, (stage, name)
    assert 'aria-label="objective/scores_std"' in text
    assert 'aria-label="eval/rouge"' in text, "scorers that are never trained on"
    assert 'aria-label="eval/rouge_se"' not in text, "an error is a band"


def test_text_of_samples_cannot_inject(tmp_path, fake_run, lines):
    workdir = fake_run(tmp_path / "run")
    evil = '</pre><script>alert(1)</script><img src=x onerror="alert(2)">\'"&'
    row = schema.sample_row(
        evil, 0, evil, evil, evil, scores={evil: 1.0}, length=3, kl=0.0
    )
    heat = {**row, "tokens": [{"text": evil, "reward": 1.0}]}
    lines(workdir / "samples.jsonl", [row, {**heat, "step": 1}])
    lines(workdir / "metrics.jsonl", [{"stage": evil, "step": 1, evil: 1.0, "loss": 2}])
    (workdir / "config.json").write_text(json.dumps({evil: evil}))
    (workdir / "summary.json").write_text(
        json.dumps({"verdict": evil, "gold_definition": evil, evil: evil})
    )
    found, text = page([workdir], tmp_path)
    assert found.tags.count("script") == 1
    assert "img" not in found.tags
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    assert text.count("alert(1)") == text.count("&lt;script&gt;alert(1)")
    both, _ = page([workdir, fake_run(tmp_path / "<script>")], tmp_path)
    assert both.tags.count("script") == 1


def test_numbers_of_a_token_that_are_text_do_not_reach_the_style(tmp_path, lines):
    row = schema.sample_row("ppo", 0, 1, "p", "r", scores={}, length=1)
    token = {"text": "a", "reward": "red;background:url(x)", "kl": True, "value": None}
    lines(tmp_path / "samples.jsonl", [{**row, "tokens": [token]}])
    _, text = page([tmp_path], tmp_path)
    assert "url(x)" not in text


def test_several_runs_overlay_with_legend_and_differences(tmp_path, fake_run):
    workdirs = [fake_run(tmp_path / "a"), fake_run(tmp_path / "b", seed=1, kl_coef=0.1)]
    found, text = page(workdirs, tmp_path)
    assert "2 runs compared" in found.text
    assert text.count("Shapes: circle SFT, square PPO, diamond any other row.") == 2
    first = text[text.index("<h4>Gold and proxy reward") :]
    first = first[: first.index("</figure>")]
    assert {"color:var(--c0)", "color:var(--c1)"} <= set(
        re.findall(r"color:var\(--c\d\)", first)
    )
    table = text[text.index("What differs") :]
    table = table[: table.index("</table>")]
    assert "ppo.kl_coef" in table and "0.05" in table and "0.1" in table
    assert "clip_eps" not in table
    assert report.difference(workdirs) == (
        "seed\n  a  0\n  b  1\nppo.kl_coef\n  a  0.05\n  b  0.1"
    )


def test_runs_with_different_stages_overlay(tmp_path, fake_run, lines):
    other = tmp_path / "other"
    other.mkdir()
    lines(other / "metrics.jsonl", [{"stage": "dpo", "step": 1, "loss": 0.7}])
    _, text = page([fake_run(tmp_path / "a"), other], tmp_path)
    assert "stage ppo" in text and "dpo step" in text


@pytest.mark.parametrize("missing", runs.FILES)
def test_a_run_without_one_of_its_files(tmp_path, fake_run, missing):
    workdir = fake_run(tmp_path / "run")
    (workdir / missing).unlink()
    page([workdir], tmp_path)


@pytest.mark.parametrize("only", runs.FILES)
def test_a_run_with_one_empty_file_only(tmp_path, only):
    (tmp_path / only).write_text("{}" if only.endswith(".json") else "")
    found, _ = page([tmp_path], tmp_path)
    assert "Nothing measured yet." in found.text


def test_a_run_in_progress_says_how_far_it_is(tmp_path, fake_run):
    workdir = fake_run(tmp_path / "run")
    (workdir / "summary.json").write_text('{"table": {"sft": {"gold": null}}}')
    assert "No verdict yet" in page([workdir], tmp_path)[1]
    (workdir / "summary.json").unlink()
    text = page([workdir], tmp_path)[1]
    assert "No summary yet. Stage ppo, step 60, gold 1.39, proxy 3.35, KL 8." in text


def test_one_point_and_nan(tmp_path, lines):
    rows = [
        {
            "stage": "ppo",
            "step": 1,
            "objective/scores": 1.0,
            "objective/kl": float("nan"),
        }
    ]
    lines(tmp_path / "metrics.jsonl", rows)
    _, text = page([tmp_path], tmp_path)
    assert "1 non-finite, marked ×" in text


def test_thousands_of_steps_stay_readable(tmp_path, fake_run):
    workdir = fake_run(tmp_path / "run", steps=4000, evaluate_every=500, prompts=3)
    _, text = page([workdir], tmp_path)
    assert len(text) < 800_000
    assert "Pale: single steps; line: mean over neighbors." in text


def test_the_own_verdict_of_a_run_wins(tmp_path):
    (tmp_path / "summary.json").write_text('{"verdict": "It did not work."}')
    assert "It did not work." in page([tmp_path], tmp_path)[0].text


def test_samples_show_first_and_last_moment_and_token_numbers(tmp_path, fake_run):
    workdir = fake_run(tmp_path / "run", steps=300, evaluate_every=10, prompts=2)
    _, text = page([workdir], tmp_path)
    steps = re.findall(r'class="step">step (\d+)', text)
    assert steps[0] == "0" and "300" in steps
    assert len(steps) <= 2 * 8
    assert "Token by token, step 300" in text
    assert re.search(r'style="--reward:[^"]*--ratio:', text)


def test_a_traced_sample_of_an_evaluated_step_stands_beside_it(tmp_path, lines):
    """Kills: the row with tokens replacing the evaluated row of the same step."""
    told = {"scores": {"gold": 0.5}, "length": 2, "kl": 1.0}
    seen = schema.sample_row("ppo", 4, 7, "p", "w1 w2", **told)
    tokens = schema.token_rows(["w3", "w4"], reward=[0.0, 1.0])
    traced = schema.sample_row(
        "ppo", 4, 7, "p", "w3 w4", scores={"proxy": 1.0}, length=2, tokens=tokens
    )
    lines(tmp_path / "samples.jsonl", [seen, traced])
    found, text = page([tmp_path], tmp_path)
    assert "w1 w2" in found.text and "step 4 traced" in text
    assert ">w3</span> <span" in text, "words that decoding glued stay apart"


def test_traced_moments_are_shown_rather_than_others(tmp_path, lines):
    """Of 40 evaluations 3 carry tokens: all 3 are shown with a table each, and others
    beside them. Kills: moments chosen without regard to tokens."""
    told = {"scores": {"gold": 0.5}, "length": 1}
    tokens = schema.token_rows(["w"], reward=[0.0])
    rows = [schema.sample_row("ppo", step, 7, "p", "w", **told) for step in range(40)]
    rows += [
        schema.sample_row("ppo", step, 7, "p", "w", tokens=tokens, **told)
        for step in (0, 17, 39)
    ]
    lines(tmp_path / "samples.jsonl", rows)
    _, text = page([tmp_path], tmp_path)
    tables = re.findall(r"Token by token, step (\d+)", text)
    assert tables == ["0", "17", "39"]
    moments = set(re.findall(r'class="step">step (\d+)', text))
    assert {"0", "17", "39"} < moments and len(moments) == 8


def test_phases_are_the_parts_of_a_step_or_the_step():
    whole = ["time/step", "time/eval", "time/tokens_per_second", "time/compiles", "a"]
    assert panels.phases(whole) == ["time/step", "time/eval"]
    assert panels.phases([*whole, "time/rollout"]) == ["time/eval", "time/rollout"]


def test_heat_colors_have_rules_for_every_field():
    rules = assets.heat_rules(schema.TOKEN_FIELDS)
    for name in schema.TOKEN_FIELDS:
        assert f'value="{name}"' in rules and f"var(--s-{name}" in rules


def test_unwritable_place_is_a_user_error(tmp_path, fake_run):
    workdir = fake_run(tmp_path / "run")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write the report"):
        report.write([workdir], tmp_path / "file" / "report.html")


def test_import_is_light():
    """Kills: a plotting library or jax imported with the report."""
    import subprocess
    import sys

    code = (
        "import sys; import rlhf_jax.studies.report;"
        "print([m for m in ('matplotlib', 'torch', 'flax', 'jax') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
