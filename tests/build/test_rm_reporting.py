"""`rm-report` on reward models whose truth is known: calibrated, and fond of length."""

import argparse
import json
import types as plain

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import data
from rlhf_jax.build.commands import opening, rm_reporting
from rlhf_jax.data import tokenizer as tokenizers
from rlhf_jax.errors import UserError
from rlhf_jax.types import Network, NetworkOutputs
from rlhf_jax.worlds import key_lm

WORLD = key_lm.World(contents=10, salient=3, shortest=7, longest=9)
NOISE = 0.2
PER_TOKEN = 0.2
"""What a token more is worth to the biased model, in units of gold."""


def network(per_token, blind=False, place=0.0):
    """A reward model in closed form: (gold + per_token * length) / NOISE."""

    def apply(variables, inputs, cache=None):
        del variables, cache
        tokens, mask = inputs.tokens, inputs.mask
        ends = jnp.argmax((tokens == key_lm.SEPARATOR) & mask, axis=1)[:, None]
        columns = jnp.arange(tokens.shape[1])[None]
        prompt, response = mask & (columns <= ends), mask & (columns > ends)
        gold = key_lm.gold(WORLD, tokens, prompt, tokens, response)
        length = jnp.sum(response, axis=1, dtype=jnp.float32)
        first = tokens[jnp.arange(len(tokens)), ends[:, 0] + 1].astype(jnp.float32)
        score = first if blind else (gold + per_token * length) / NOISE
        score = score + place * jnp.arange(len(tokens)) / len(tokens)
        words = jax.nn.one_hot(tokens, WORLD.vocab_size) * response[..., None]
        counts = jnp.sum(words, axis=1)
        hidden = jnp.broadcast_to(counts[:, None], (*tokens.shape, WORLD.vocab_size))
        return NetworkOutputs(
            hidden, jnp.broadcast_to(score[:, None], tokens.shape), None
        )

    config = plain.SimpleNamespace(vocab_size=WORLD.vocab_size, max_length=64)
    nothing = plain.SimpleNamespace
    return Network(nothing, apply, nothing, nothing, config)


@pytest.fixture
def opened(monkeypatch):
    """`opened(network)` makes it what any folder holds."""

    def set_to(made, scalar=True):
        tokenizer = tokenizers.symbols(
            WORLD.vocab_size, pad_token=0, end_token=1, names=key_lm.names(WORLD)
        )
        model = opening.Opened(
            name="RUN/rm",
            network=made,
            variables={},
            scalar=scalar,
            gain=3.0,
            bias=1.0,
            encoder=data.Encoder(tokenizer=tokenizer),
            stop_tokens=(1,),
            response_length=None,
        )
        monkeypatch.setattr(opening, "open_model", lambda path: model)

    return set_to


def written(count=400, seed=0, length_bias=0.0):
    """Pairs of imperfect responses, labels by Bradley-Terry of gold over NOISE."""
    rng = np.random.default_rng(seed)
    rows = []
    for number, prompt in enumerate(key_lm.prompts(WORLD, seed, count)):
        pair = [key_lm.demonstration(WORLD, prompt, rng) for _ in range(2)]
        scores = [gold_of(prompt, response) for response in pair]
        felt = scores[0] - scores[1] + length_bias * (len(pair[0]) - len(pair[1]))
        first = rng.random() < 1 / (1 + np.exp(-felt / NOISE))
        rows.append(
            {
                "id": str(number),
                "prompt": prompt.tolist(),
                "responses": [response.tolist() for response in pair],
                "ranks": [1, 2] if first else [2, 1],
                "gold": scores,
                "source": "ab"[number % 2],
            }
        )
    return rows


def gold_of(prompt, response):
    """The definition of the world's gold, in plain Python."""
    marked = WORLD.contents + key_lm.FIRST
    salient = {int(t) - WORLD.contents for t in prompt if t >= marked}
    spoken = [int(t) for t in response if t != key_lm.EOS]
    hits = len(salient & set(spoken))
    misses = (len(spoken) - hits) / max(len(spoken), 1)
    return hits / len(salient) - 0.5 * misses - 0.05 * max(len(spoken) - 6, 0)


@pytest.fixture
def run(opened, tmp_path):
    """`run(network, rows, ...)` -> (entries, details, page)."""

    def call(made, rows, **options):
        opened(made)
        path = tmp_path / "pairs.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        given = dict(
            model="RUN/rm",
            data=str(path),
            workdir=str(tmp_path / "out"),
            label_noise=NOISE,
            reference_samples=None,
            policy_samples=None,
            limit=0,
        )
        said = rm_reporting.report(argparse.Namespace(**{**given, **options}))
        folder = tmp_path / "out"
        entries = json.loads((folder / "rm_report.json").read_text())
        details = json.loads((folder / "details.json").read_text())
        assert str(folder / "report.html") in said
        return entries, details, (folder / "report.html").read_text()

    return call


@pytest.mark.parametrize("known", [True, False], ids=["gold", "labels"])
def test_a_model_that_likes_length_is_called_biased_and_gold_is_not(run, known):
    """Kills: a report that says biased of any score that correlates with length."""
    rows = written()
    if not known:
        rows = [{k: v for k, v in row.items() if k != "gold"} for row in rows]
    found, _, page = run(network(PER_TOKEN), rows)
    low, high = found["length_bias"]["ci"]
    assert found["length_bias"]["verdict"] == "biased" and 0.2 < low < high
    assert "biased" in page and "Length bias" in page
    calm, _, page = run(network(0.0), rows)
    low, high = calm["length_bias"]["ci"]
    assert calm["length_bias"]["verdict"] == "not shown"
    assert low <= 1e-6 and high >= -1e-6 and high - low < 0.6
    assert calm["calibration_slope"]["verdict"] in (
        "calibrated",
        "no miscalibration shown",
    )
    assert calm["ece"]["verdict"] == "calibrated"
    if known:
        assert calm["accuracy"]["verdict"] != "below the ceiling"
        assert found["accuracy"]["value"] < calm["accuracy"]["value"]


def test_labels_that_share_the_taste_need_gold_to_show_it(run):
    rows = written(length_bias=PER_TOKEN)
    found, _, _ = run(network(PER_TOKEN), rows, label_noise=None)
    assert found["length_bias"]["verdict"] == "biased"
    bare = [{k: v for k, v in row.items() if k != "gold"} for row in rows]
    blind, _, _ = run(network(PER_TOKEN), bare)
    assert blind["length_bias"]["verdict"] == "not shown"
    assert "labels share" in blind["length_bias"]["definition"]


def test_every_entry_has_value_interval_and_verdict(run):
    found, details, page = run(network(0.0), written(60))
    assert {"accuracy", "ceiling", "calibration_slope", "ece", "length_bias"} <= set(
        found
    )
    assert {"position_bias", "prompt_shuffle", "consistency_padding"} <= set(found)
    assert {"score_drift", "ood_data", "ood_policy"} <= set(found), "not measured"
    assert {"accuracy/source/a", "accuracy/source/b"} <= set(found)
    for entry in found.values():
        assert {"value", "ci", "verdict", "n"} <= set(entry) and len(entry["ci"]) == 2
    assert found["consistency_padding"]["value"] == 1.0
    assert found["consistency_neighbors"]["value"] == 1.0  # order is free in this world
    assert found["position_bias"]["value"] == 0.0
    assert found["prompt_shuffle"]["verdict"] == "uses the prompt"
    assert details["records"] == 60 and details["reliability"]
    assert "https://" not in page and "http://" not in page


def test_a_model_that_does_not_read_the_prompt_or_reads_its_place_shows(run):
    found, _, _ = run(network(0.0, blind=True), written(60))
    assert found["prompt_shuffle"]["verdict"] == "ignores the prompt"
    found, _, _ = run(network(0.0, place=40.0), written(60))
    assert found["consistency_padding"]["verdict"] == "sensitive"


def test_samples_of_a_policy_that_drifted(run, tmp_path):
    prompts = key_lm.prompts(WORLD, 5, 80)
    rng = np.random.default_rng(0)
    paths = {}
    for name, response in (
        ("reference", lambda p: key_lm.demonstration(WORLD, p, rng).tolist()),
        ("policy", lambda p: [5] * 12 + [1]),
    ):
        paths[name] = tmp_path / f"{name}.jsonl"
        rows = [{"prompt": p.tolist(), "response": response(p)} for p in prompts]
        paths[name].write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = written(60)
    given = {f"{name}_samples": str(path) for name, path in paths.items()}
    found, _, _ = run(network(0.0), rows, **given)
    assert found["ood_policy"]["verdict"] == "out of distribution"
    assert found["ood_data"]["verdict"] == "not shown"
    assert found["score_drift"]["verdict"] == "lower"
    with pytest.raises(UserError, match="give both"):
        run(network(0.0), rows, policy_samples="policy.jsonl")


def test_texts_are_edited_and_pairs_read(run):
    """Text by the model's tokenizer; `chosen` and `rejected` in the place of ranks."""
    rows = []
    for row in written(60):
        texts = [
            " ".join(key_lm.names(WORLD)[t] for t in ids if t != 1)
            for ids in row["responses"]
        ]
        order = [texts[row["ranks"].index(rank)] for rank in (1, 2)]
        prompt = " ".join(key_lm.names(WORLD)[t] for t in row["prompt"])
        if all(order):
            rows.append({"prompt": prompt, "chosen": order[0], "rejected": order[1]})
    found, _, _ = run(network(0.0), rows)
    assert found["consistency_whitespace"]["value"] == 1.0
    assert "consistency_punctuation" not in found  # no such word here


BAD = [
    ({"gold": [1.0]}, "one number per response"),
    ({"gold": [1.0, "x"]}, "one number per response"),
    ({"responses": [[3, 1], []]}, "at least one"),
    ({"responses": [[3, 1], [99]]}, "99"),
    ({"responses": ["w1", " "]}, "a response is empty"),
    ({"responses": ["w1", {"id": "b", "text": "w2"}], "gold": None}, "unknown"),
    ({"ranks": [1, 1]}, "every pair ties"),
    ({"prompt": [3] * 70 + [2]}, "fits the context"),
]


@pytest.mark.parametrize(("change", "said"), BAD)
def test_a_bad_record_is_named(run, change, said):
    with pytest.raises(UserError, match=said):
        run(network(0.0), [written(1)[0] | change])


def test_feedback_records_are_reported_on_by_their_rankings(run):
    """The same responses as plain rankings and as feedback: the same accuracy."""
    plain, typed = [], []
    rows = [row for row in written(30) if len(set(map(tuple, row["responses"]))) == 2]
    for row in rows:
        plain.append({k: row[k] for k in ("id", "prompt", "responses", "ranks")})
        named = [
            {"id": x, "text": r} for x, r in zip("ab", row["responses"], strict=True)
        ]
        order = ["ab"[row["ranks"].index(rank)] for rank in (1, 2)]
        typed.append({"id": row["id"], "prompt": row["prompt"], "responses": named})
        typed[-1] |= {"ranking": order, "comments": [{"text": "so"}]}
    expected = run(network(0.0), plain)[0]
    found, details, _ = run(network(0.0), typed)
    assert found["accuracy"] == expected["accuracy"]
    assert details["left out: comments: not used"] == len(rows) > 20
    bad = [*typed[:3], typed[3] | {"ranking": ["a", "z"]}]
    with pytest.raises(UserError, match="pairs.jsonl:4: .*no response has the id 'z'"):
        run(network(0.0), bad)
    with pytest.raises(UserError, match="no record orders its responses"):
        run(network(0.0), [typed[0] | {"ranking": []}])


def test_a_policy_is_refused(opened, tmp_path):
    opened(network(0.0), scalar=False)
    options = argparse.Namespace(model="RUN/ppo", data="x", label_noise=None)
    with pytest.raises(UserError, match="is a language model"):
        rm_reporting.report(options)
