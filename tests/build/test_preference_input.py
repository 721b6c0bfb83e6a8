"""Feedback that cannot be learned from is named and counted before any stage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlhf_jax import networks, rng
from rlhf_jax.build.configs import shortcuts
from rlhf_jax.cli.main import main
from rlhf_jax.errors import UserError
from rlhf_jax.networks import huggingface

CONFIG = Path(__file__).parents[2] / "experiments" / "hf_preference.py"
A, B, C = ({"id": name, "text": [5 + i, 2]} for i, name in enumerate("abc"))
GOOD = {"id": "good", "prompt": [3, 4], "responses": [A, B], "ranking": ["a", "b"]}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A model without tokenizer, of 16 tokens."""
    folder = tmp_path_factory.mktemp("model")
    config = networks.presets.PRESETS["llama"](
        vocab_size=16, max_length=16, width=8, num_layers=1, num_heads=2
    )
    variables = networks.language_model(config).init(rng.root(0))
    huggingface.save(folder, config, variables, extra_fields={"eos_token_id": 2})
    return folder


@pytest.fixture
def check(directory, tmp_path, capsys):
    """`check(rows, *settings)`: exit code and what `rlhf-jax check` says."""

    def run(rows, *settings):
        path = tmp_path / "feedback.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        code = main(
            [
                "check",
                f"--config={CONFIG}:tiny",
                f"--config.model.path={directory}",
                f"--config.data.path={path}",
                "--config.task.heldout_share=0",
                "--config.preference.batch_size=1",
                *settings,
            ]
        )
        out, err = capsys.readouterr()
        lines = err.splitlines()
        assert len([x for x in lines if x.startswith("error:")]) == (code == 2)
        return code, out if code == 0 else lines[-1]

    return run


def row(**changes):
    return {**GOOD, "id": "bad", **changes}


BAD = {
    "unknown response": row(ranking=["a", "z"]),
    "cyclic preference": row(
        responses=[A, B, C],
        ranking=[],
        pairs=[
            {"better": x, "worse": y} for x, y in (("a", "b"), ("b", "c"), ("c", "a"))
        ],
    ),
    "empty response": row(responses=[A, {"id": "b", "text": []}]),
    "identical responses": row(responses=[A, {"id": "b", "text": [5, 2]}]),
    "rating out of range": row(
        ratings=[
            {"response": "a", "attribute": "help", "value": 7, "low": 1, "high": 5}
        ]
    ),
    "mixed text and token ids": row(prompt="3 4"),
}
SHOWN = {
    "unknown response": "no response has the id 'z'",
    "cyclic preference": "go in a circle",
    "empty response": "response 'b' is empty",
    "identical responses": "both have the same text",
    "rating out of range": "7 of 'help' is outside of 1 to 5",
    "mixed text and token ids": "the prompt is text and this is token ids",
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_record_is_named_and_counted(kind, check):
    code, said = check([GOOD, BAD[kind], {**BAD[kind], "id": "bad2"}])
    assert code == 2
    assert f"2 of 3 records are bad (2 {kind})" in said
    assert "feedback.jsonl:2" in said and SHOWN[kind] in said
    assert "on_bad_record=skip" in said


def test_bad_records_may_be_left_out_but_not_all(check):
    skip = "--config.task.on_bad_record=skip"
    code, _ = check([GOOD, *BAD.values()], skip)
    assert code == 0
    code, said = check(list(BAD.values()), skip)
    assert code == 2 and "no usable feedback record (6 skipped" in said


@pytest.mark.parametrize(
    "bad, problem",
    [
        ({"prompt": [3], "chosen": [5, 2], "rejected": [5, 2]}, "identical responses"),
        ({"prompt": [3], "chosen": [5, 2], "rejected": []}, "empty response"),
        ({"prompt": [3], "chosen": [5, 2], "rejected": 4}, "schema"),
        ({"prompt": [3], "response": [5, 2], "good": "yes"}, "schema"),
        ({"prompt": [3], "responses": [[5, 2], [5, 2]], "ranks": [1, 2]}, "identical"),
    ],
)
def test_plain_rows_pass_the_same_checks(bad, problem, check):
    code, said = check([GOOD, bad])
    assert code == 2 and problem in said and "1 of 2" in said


def test_plain_rows_and_feedback_records_are_told_apart(check):
    code, said = check(
        [
            GOOD,
            {"prompt": [3], "chosen": [5, 2], "rejected": [6, 2]},
            {"prompt": [3], "responses": [[5, 2], [7, 2]], "ranks": [1, 2]},
            {"prompt": [3], "response": [5, 2], "good": True},
            {"prompt": "3", "completion": "6", "label": False},
        ]
    )
    assert code == 0, said


def test_ids_of_another_tokenizer_are_counted_and_left_out_on_request(check):
    rows = [
        GOOD,
        row(prompt=[3, 40]),
        row(id="worse", responses=[A, {**B, "text": [99]}]),
    ]
    code, said = check(rows)
    assert code == 2 and "2 of 3 records have token ids of another tokenizer" in said
    assert "'bad' has token id 40, and the tokenizer has 16 tokens" in said
    code, said = check(rows, "--config.task.on_bad_record=skip")
    assert code == 0
    code, said = check(rows[1:], "--config.task.on_bad_record=skip")
    assert code == 2 and "none is left to learn from" in said
    code, said = check([{"prompt": "hello", "chosen": "5", "rejected": "6"}])
    assert code == 2 and "'hello' is not a token id" in said


def test_records_that_contradict_each_other_are_counted(check, caplog):
    opposite = {**GOOD, "id": "opposite", "ranking": ["b", "a"]}
    code, said = check([GOOD, opposite])
    assert code == 0, said
    (warning,) = [x.getMessage() for x in caplog.records if "contradict" in x.msg]
    assert "1 pairs ordered both ways" in warning
    assert "1 prompts whose preferences go in a circle" in warning
    rated = [
        {"response": x, "attribute": "help", "value": v, "low": 1, "high": 5}
        for x, v in (("a", 2), ("b", 4))
    ]
    labels = [{"response": "a", "good": False}]
    said = {"ranking": [], "ratings": rated, "labels": labels}
    turned = [{**x, "value": 6 - x["value"]} for x in rated]
    other = {"ratings": turned, "labels": [{"response": "a", "good": True}]}
    caplog.clear()
    check([GOOD, {**GOOD, "id": "1", **said}, {**GOOD, "id": "2", **said, **other}])
    (warning,) = [x.getMessage() for x in caplog.records if "contradict" in x.msg]
    assert warning.endswith("1 pairs rated both ways, 1 responses called good and bad")


def test_a_layout_that_no_field_tells_is_to_be_named(check):
    code, said = check([{"history": "p", "human_ref_A": "5", "human_ref_B": "6"}])
    assert code == 2 and "name its layout: hh_rlhf" in said and "shp" in said
    message = {"message_id": "m", "parent_id": None, "role": "nobody"}
    code, said = check([message], "--config.task.layout=oasst")
    assert code == 2 and "expected prompter or assistant, got str 'nobody'" in said


def test_labels_from_ratings_of_an_attribute(check):
    rate = {"attribute": "help", "low": 1, "high": 5}
    ratings = [{"response": x, "value": v} | rate for x, v in (("a", 4), ("b", 2))]
    rated = [{**GOOD, "ranking": [], "ratings": ratings}]
    kto = ["--config.loss=kto", "--config.preference.attribute=help"]
    code, said = check(rated, *kto)
    assert code == 0, said
    code, said = check(rated, *kto, "--config.preference.from_comparisons=False")
    assert code == 2 and "config.preference.attribute='help' orders nothing" in said


@pytest.mark.parametrize(
    "settings, problem",
    [
        (["--config.loss=dqo"], "config.preference.loss='dqo' is not known; did you"),
        (["--config.loss=None"], "give either loss"),
        (["--config.preference.terms=dpo,ipo"], "give either loss"),
        (["--config.loss=None", "--config.preference.terms=dpo,kto"], "'kto_pairs'"),
        (["--config.preference.dpo.beta=0"], "config.preference.dpo: beta must be"),
        (["--config.preference.reference=None"], "compares with a reference policy"),
        (["--config.preference.data=labels"], "names no labels of an earlier stage"),
        (["--config.data.path=None"], "config.task.path is None"),
        (["--config.task.layout=pairs"], "config.task.layout='pairs' is not known"),
        (["--config.task.heldout_share=1"], "holds out every prompt"),
    ],
)
def test_a_wrong_setting_is_named(settings, problem, check):
    code, said = check([GOOD], *settings)
    assert code == 2 and problem in said, said


@pytest.mark.parametrize("loss", ["orpo", "simpo", "cpo", "slic"])
def test_without_a_reference_none_is_needed(loss, check):
    settings = [f"--config.loss={loss}", "--config.preference.reference=None"]
    code, said = check([GOOD], *settings)
    assert code == 0 and "reference" in said and "none" in said


def test_a_loss_that_finds_nothing_to_learn_from_is_refused_before_training(check):
    labels = [{**GOOD, "ranking": [], "labels": [{"response": "a", "good": True}]}]
    code, said = check(labels)
    assert code == 2 and "has no pairs to learn from (left out:" in said
    code, said = check([GOOD], "--config.preference.batch_size=2")
    assert code == 2 and "batch_size=2" in said and "1 pairs" in said
    kto = ["--config.loss=kto", "--config.preference.from_comparisons=False"]
    code, said = check([GOOD], *kto)
    assert code == 2 and "set from_comparisons=True" in said


@pytest.mark.parametrize(
    "changes, problem",
    [
        ({"loss": "ipo"}, "config.loss='ipo' is read by nothing"),
        ({"data": {"path": "other"}}, "config.data="),
        ({"data": {"path": "f", "x": 1}}, "config.data="),
    ],
)
def test_a_short_name_must_say_what_the_long_one_says(changes, problem):
    plain = {
        "loss": "dpo",
        "data": {"path": "f"},
        "task": {"path": "f"},
        "preference": {"kind": "preference", "loss": "dpo"},
    }
    assert shortcuts.check(plain, ("preference",)) == ["loss", "data"]
    with pytest.raises(UserError, match=problem):
        shortcuts.check({**plain, **changes}, ("preference",))


ONLINE = CONFIG.with_name("online_dpo.py")


@pytest.mark.parametrize(
    "settings, problem",
    [
        (["--config.loss=kto"], "needs labels or responses of other prompts"),
        (["--config.loss=kto_pairs"], "needs labels or responses of other prompts"),
        (
            ["--config.online.judge=a.py:f", "--config.online.samples_per_prompt=4"],
            "config.online.judge compares two responses",
        ),
        (
            ["--config.online.exploration=1", "--config.online.samples_per_prompt=4"],
            "config.online.exploration compares two responses",
        ),
        (
            ["--config.online.exploration=1", "--config.online.mixture=0.5"],
            "config.online also asks for another opponent",
        ),
        (
            ["--config.loss=nash_md", "--config.online.temperature=0.7"],
            "nash_md follows the gradient of the distribution that it samples",
        ),
        (["--config.online.reward_model=nobody"], "config.online.reward_model"),
    ],
)
def test_what_online_learning_cannot_do_is_refused(settings, problem, capsys):
    assert main(["check", f"--config={ONLINE}:tiny", *settings]) == 2
    assert problem in capsys.readouterr().err
