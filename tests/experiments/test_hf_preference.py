"""Preference learning on a directory that transformers wrote, killed and exported."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from transformers import LlamaConfig

from rlhf_jax.build import experiment
from rlhf_jax.build.commands import exporting
from rlhf_jax.data import tokenizer as tokenizers
from rlhf_jax.errors import UserError
from rlhf_jax.training import digest, loop
from rlhf_jax.training.stopping import Stop
from rlhf_jax.types import Rollout

LETTERS = "abcdefghijkl"


@pytest.fixture
def directory(tmp_path):
    """A random Llama of 14 words, with its tokenizer."""
    folder = tmp_path / "llama"
    transformers.set_seed(0)
    config = LlamaConfig(
        vocab_size=14,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=24,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    names = ["<pad>", "<eos>", *LETTERS]
    tokenizers.symbols(14, pad_token=0, end_token=1, names=names).save(folder)
    return str(folder)


@pytest.fixture
def judge(directory, tmp_path):
    """The same architecture and tokenizer with a scalar head."""
    folder = tmp_path / "judge"
    config = transformers.AutoConfig.from_pretrained(directory, num_labels=1)
    transformers.LlamaForSequenceClassification(config).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(directory).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def feedback(tmp_path):
    """Rankings of three: more of the letter a is better."""
    path = tmp_path / "feedback.jsonl"
    with path.open("w") as file:
        for i in range(24):
            own = LETTERS[i % 12]
            texts = {"good": "a a a " + own, "so so": "a " + own, "bad": "l " + own}
            responses = [{"id": k, "text": text} for k, text in texts.items()]
            row = {"id": f"q{i}", "prompt": f"{own} {LETTERS[i // 2]} c"}
            row |= {"responses": responses, "ranking": [[name] for name in texts]}
            file.write(json.dumps(row) + "\n")
    return str(path)


@pytest.fixture
def configured(tiny, directory, feedback):
    def make(**settings):
        base = {"model.path": directory, "data.path": feedback}
        base["task.heldout_share"] = "0.3"
        return tiny("hf_preference.py:tiny", **base | settings)

    return make


def logits(folder):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    return model(torch.arange(8)[None]).logits


@pytest.mark.parametrize(
    "loss, settings",
    [
        ("dpo", {"preference.cache_reference": "True"}),
        ("kto", {"model.lora.rank": "2", "preference.microbatches": "2"}),
    ],
)
def test_a_killed_run_ends_as_an_undisturbed_one_and_is_exported(
    loss, settings, configured, continued, directory, tmp_path
):
    expected, found = continued(configured(loss=loss, **settings), "preference")
    assert found == expected
    stage, out = tmp_path / "killed" / "preference", tmp_path / "out"
    exporting.export(stage, out)
    assert not torch.equal(logits(out), logits(directory)), "it learned"
    assert transformers.AutoTokenizer.from_pretrained(out)("a b")["input_ids"]
    heldout = json.loads((stage / "done.json").read_text())["result"]["heldout"]
    assert {"accuracy", "margin", "loss", f"loss/{loss}"} <= set(heldout)
    config = configured(loss=loss, **settings)
    (built,) = experiment.build(config, tmp_path / "killed", Stop())[1]
    assert built.measures is not None and set(built.measures()) == set(heldout)


@pytest.mark.parametrize("loss", ["ipo", "simpo", "orpo", "plackett_luce_dpo", "sppo"])
def test_each_method_trains_on_the_same_file(loss, configured, tmp_path):
    config = configured(loss=loss, **{"preference.steps": "2"})
    assert experiment.run(config, tmp_path / "run") == 0
    record = json.loads((tmp_path / "run/preference/done.json").read_text())
    assert record["result"]["examples"] > 8


def test_a_stale_cache_stops_the_run(configured, directory, tmp_path, monkeypatch):
    settings = {"preference.cache_reference": "True", "preference.steps": "2"}
    run = tmp_path / "run"
    assert experiment.run(configured(**settings), run) == 0
    for name in ("done.json", "checkpoints"):
        (run / "preference" / name).rename(tmp_path / name)
    transformers.set_seed(1)
    config = transformers.AutoConfig.from_pretrained(directory)
    transformers.LlamaForCausalLM(config).save_pretrained(directory)
    with pytest.raises(UserError, match="stale cache.*another reference model"):
        experiment.run(configured(**settings), run)


def held_in(variables):
    """Dtypes of all arrays; those that enter sums in float32 under their own key."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        wide = {"scale", "bias", "head"} & {step.key for step in path}
        found.setdefault("wide" if wide else "held", set()).add(str(leaf.dtype))
    return found


def test_frozen_models_of_directories_are_held_in_their_dtype(
    configured, directory, judge, tmp_path, monkeypatch
):
    """A reference and a reward model, each a directory of its own."""
    seen, train = [], loop.train

    def watched(*given, frozen, **settings):
        seen.append(held_in(frozen.reference))
        return train(*given, frozen=frozen, **settings)

    monkeypatch.setattr(loop, "train", watched)
    settings = {"preference.reference": directory, "preference.steps": "1"}
    config = configured(**{"model.frozen_dtype": "bfloat16"} | settings)
    assert experiment.run(config, tmp_path / "run") == 0
    first = json.loads((tmp_path / "run" / "metrics.jsonl").open().readline())
    assert first["loss/dpo"] == pytest.approx(math.log(2), abs=0.05)
    assert np.isfinite([x for key, x in first.items() if key != "stage"]).all()
    context, _ = experiment.build(config, tmp_path, Stop())
    scorer = context.scorer(judge, "config.online.reward_model")
    assert [*seen, held_in(scorer.init()["variables"])] == [
        {"held": {"bfloat16"}, "wide": {"float32"}}
    ] * 2
    prompt = context.prompts(context.task.heldout, 2)
    tokens = jnp.full((2, 3), 4)
    real = jnp.ones(tokens.shape, bool)
    response = Rollout(prompt, tokens, real, tokens * 0.0, ~real, real[:, 0])
    assert jnp.isfinite(scorer.apply(scorer.init(), {}, response).sequence).all()


@pytest.mark.identity("I15")
def test_a_policy_starts_from_the_stage_before_and_its_optimizer_anew(
    tiny, continued, tmp_path
):
    """DPO after SFT starts at log 2, with step 0 of its own schedule."""
    config = tiny("dpo_chain.py:tiny", **{"dpo.optimizer.warmup_steps": "2"})
    expected, found = continued(config, "dpo")
    assert found == expected
    rows = map(json.loads, (tmp_path / "killed" / "metrics.jsonl").open())
    first = next(row for row in rows if row["stage"] == "dpo")
    third = pytest.approx(1e-4)  # of 3e-4: the first of two warm-up steps
    assert first["step"] == 0 and first["optim/lr"] == third
    assert first["loss/dpo"] == pytest.approx(0.6931472, abs=1e-6)
    table = json.loads((tmp_path / "killed" / "summary.json").read_text())["table"]
    assert {"sft", "dpo"} <= set(table)
    assert digest(tmp_path / "killed") == found


def test_rounds_learn_from_the_union_of_their_labels(tiny, tmp_path):
    run = tmp_path / "run"
    assert experiment.run(tiny("iterated_dpo.py:tiny"), run) == 0
    results = [
        json.loads((run / f"round-{n}/dpo/done.json").read_text())["result"]
        for n in (1, 2)
    ]
    assert results[1]["examples"] > 1.5 * results[0]["examples"]
    one, two = ((run / f"round-{n}/label/rankings.jsonl").read_text() for n in (1, 2))
    assert one != two
    exporting.export(run / "round-2" / "dpo", tmp_path / "out")
    assert torch.isfinite(logits(tmp_path / "out")).all()
    assert set(digest(run))


def test_nash_md_killed_and_continued_ends_the_same(tiny, continued, tmp_path):
    """It plays against a mixture, which needs the reference and the policy."""
    stages = {"stages": "sft,online", "online.reward_model": "gold"}
    expected, found = continued(tiny("nash_md.py:tiny", **stages), "online")
    assert found == expected
    rows = map(json.loads, (tmp_path / "killed" / "metrics.jsonl").open())
    first = next(row for row in rows if row["stage"] == "online")
    assert first["preference/sample_kl"] == pytest.approx(0.0, abs=1e-5)
    assert 0 < first["preference/win_probability"] < 1


def test_online_learning_killed_and_continued_ends_the_same(tiny, continued, tmp_path):
    """Kills: alarms of a continued run that know nothing of the evaluations before."""
    settings = {"stages": "sft,online", "online.reward_model": "gold"}
    settings |= {"online.exploration": "0.01", "online.eval_every": "1"}
    expected, found = continued(tiny("online_dpo.py:tiny", **settings), "online")
    assert found == expected
    rows = list(map(json.loads, (tmp_path / "killed" / "metrics.jsonl").open()))
    names = [f"eval/alarm_{name}" for name in ("kl", "length", "entropy", "repetition")]
    assert {*names, "eval/alarms"} <= set(rows[-1]), "they look back to the start"
