"""The stage that enumerates a policy, and the tasks that it works in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import networks, placement, rng
from rlhf_jax.build.configs.section import Section
from rlhf_jax.build.configs.seeds import Seeds
from rlhf_jax.build.runs import context
from rlhf_jax.build.stages import exact
from rlhf_jax.build.tasks import arith_task, enumerable_task
from rlhf_jax.errors import UserError
from rlhf_jax.types import PromptBatch, Rollout
from rlhf_jax.worlds import (
    arith_lm,
    boundaries,
    enumerable,
    fixed_points,
    relatives,
    tabular,
)

E64 = enumerable.e64(0)
REFERENCE = enumerable.reference(E64)
TASK = {"kind": "e64", "world": 0, "prompts": 300, "heldout": 20}
SECTION = {"policy": "ppo", "reference": "init", "target": "tilt"}
SECTION |= {"beta": 0.3, "group": None, "mixture": 0.0, "kind": "exact"}


def stage(section, task=TASK, **policies):
    """The stage over policies that are given as distributions."""
    model = enumerable_task.TabularModel(E64)
    loaded = {
        name: lambda pi=pi: {
            "params": {
                "table": jnp.asarray(enumerable.conditionals(pi, 4), jnp.float32)
            }
        }
        for name, pi in {"init": REFERENCE, **policies}.items()
    }
    empty: dict = dict.fromkeys(context.Context._fields)
    found = context.Context(**empty)._replace(
        settings={"exact": {"task": task}},
        seeds=Seeds(0, 0, 0, 0),
        model=model,
        policies=loaded,
    )
    read = Section({**SECTION, **section}, "config.exact")
    read.str("kind")
    built = exact.exact("exact", read, found)
    read.finish()
    return built


@pytest.mark.identity("C2")
def test_the_tilt_is_at_distance_zero_from_itself():
    """At the tilt J is beta log Z, and gold is what the frontier has at its KL."""
    found = stage({}, ppo=enumerable.tilt(E64, 0.3)).run()
    assert found["tv"] == found["tv_to_tilt"] < 1e-6
    assert found["j"] == pytest.approx(found["j_star"], abs=1e-5)
    assert found["gold"] == pytest.approx(found["gold_frontier"], abs=1e-5)
    assert found["mass"] == pytest.approx(1.0, abs=1e-6)
    assert found["target"] == "tilt: reference * exp(gold / 0.3) / Z"


def test_the_numbers_of_a_policy_are_those_of_its_distribution():
    pi = np.random.default_rng(0).dirichlet(np.ones(64))
    found = stage({}, ppo=pi).run()
    star = enumerable.tilt(E64, 0.3)
    assert found["tv"] == pytest.approx(enumerable.total_variation(pi, star), abs=1e-5)
    assert found["kl"] == pytest.approx(enumerable.kl(pi, REFERENCE), abs=1e-4)
    assert found["gold"] == pytest.approx(pi @ E64.gold, abs=1e-5)
    gap = found["j_star"] - found["j"]
    assert gap == pytest.approx(0.3 * enumerable.kl(pi, star), abs=1e-4)
    assert found["gold"] < found["gold_frontier"]


def test_a_policy_may_be_held_to_its_own_fixed_point():
    own = fixed_points.solve(E64, relatives.relative("loss/token/k3", 0.3))
    found = stage({"target": "loss/token/k3"}, ppo=own).run()
    assert found["tv"] < 1e-5 and found["tv_to_tilt"] > 0.2
    assert found["target"] == "fixed point of: token-level k3 loss, beta 0.3"


def test_the_reference_is_the_one_that_is_named():
    """The tilt is that of the policy trained first, not of the world's reference."""
    pi = np.random.default_rng(0).dirichlet(np.ones(64))
    local = E64._replace(reference=np.log(pi))
    star = enumerable.tilt(local, 0.3)
    found = stage({"reference": "sft"}, ppo=star, sft=pi).run()
    assert found["tv"] < 1e-5
    assert found["j_star"] == pytest.approx(enumerable.best_objective(local, 0.3), 1e-4)


def test_without_a_kl_the_target_is_the_best_response():
    best = enumerable.argmax(E64)
    section = {"target": "argmax", "beta": 0.0}
    found = stage(section, ppo=best).run()
    assert found["tv"] < 1e-5 and found["tv_to_tilt"] < 1e-5
    assert found["j"] == found["j_star"] == pytest.approx(E64.gold.max())
    greedy = stage({"target": "none", "beta": 0.0}, ppo=best).run()
    assert greedy["tv"] < 1e-5 and greedy["target"] == "fixed point of: no KL"


@pytest.mark.parametrize(("group", "words"), [(2, "groups of 2"), (8, "groups of 8")])
def test_group_sizes_become_their_deviation(group, words):
    section = {"target": "loss/sequence/k2", "beta": 1.0, "group": group}
    found = stage(section, ppo=REFERENCE).run()
    assert found["target"].endswith(words) and found["tv"] > 0.05


@pytest.mark.parametrize(
    ("section", "task", "message"),
    [
        ({"target": "tlit"}, TASK, "names no relative"),
        ({"beta": 0.0}, TASK, "config.exact.beta"),
        ({"target": "loss/token/k5"}, TASK, "estimator 'k5'"),
        ({"group": 1}, TASK, "config.exact.group=1"),
        ({}, {"kind": "key_lm"}, "has no exact world"),
    ],
)
def test_wrong_sections_are_refused(section, task, message):
    with pytest.raises(UserError, match=message):
        stage(section, task)


def test_a_transformer_is_enumerated_too():
    """All 64 responses in one batch; restricted to contents, they hold all mass."""
    config = networks.TransformerConfig(
        vocab_size=6, width=8, num_layers=1, num_heads=2, max_length=4
    )
    free = networks.language_model(config)
    variables = free.init(rng.root(0))
    held = boundaries.restricted(free, range(enumerable.FIRST, 6))
    all_of = exact.enumerate_policy(held, variables, E64)
    some = exact.enumerate_policy(free, variables, E64)
    assert all_of.sum() == pytest.approx(1.0, abs=1e-5) and some.sum() < 0.9
    found = exact.measure(E64, some, all_of, target="tilt", beta=0.3)
    assert found["mass"] == pytest.approx(some.sum()) and 0 < found["tv"] < 1


def test_enumeration_goes_through_in_chunks(monkeypatch):
    monkeypatch.setattr(exact, "_CHUNK", 24)
    variables = tabular.policy(E64).init(rng.root(0))
    found = exact.enumerate_policy(tabular.policy(E64), variables, E64)
    np.testing.assert_allclose(found, REFERENCE, atol=1e-7)


def test_e64_gives_empty_prompts_and_responses_of_the_reference():
    section = Section(TASK, "config.task")
    section.str("kind")
    task = enumerable_task.e64(section, 7, None)
    section.finish()
    assert (len(task.prompts.records), len(task.heldout.records)) == (300, 20)
    assert {record.prompt for record in task.prompts.records} == {(enumerable.BOS,)}
    given = np.array([record.response for record in task.demonstrations.records])
    number = (given - enumerable.FIRST) @ [16, 4, 1]
    counts = np.bincount(number, minlength=64) / 300
    assert enumerable.total_variation(counts, REFERENCE) < 0.25
    assert task.text(given[0], [True] * 3) == task.tokenizer.decode(given[0].tolist())
    assert task.ends_at_length and task.stop_tokens == ()


def score(task, prompts, responses):
    """Gold of responses that fill their columns."""
    prompts, responses = jnp.asarray(prompts), jnp.asarray(responses)
    count = len(prompts)
    batch = PromptBatch(
        tokens=prompts,
        mask=jnp.ones(prompts.shape, bool),
        example_id=jnp.arange(count),
        weight=jnp.ones(count),
    )
    mask = jnp.ones(responses.shape, bool)
    rollout = Rollout(batch, responses, mask, 0.0 * mask, ~mask, mask[:, 0])
    return np.asarray(task.gold.apply(task.gold.init(), {}, rollout).sequence)


def test_gold_of_the_task_is_that_of_its_world():
    section = Section(TASK, "config.task")
    task = enumerable_task.e64(section, 7, None)
    found = score(task, np.ones((64, 1), int), enumerable.sequences(E64))
    np.testing.assert_allclose(found, E64.gold, atol=1e-6)


def test_the_world_follows_its_own_seed_or_that_of_the_data():
    own = enumerable_task.world_of({"kind": "e64", "world": 3}, 5)
    np.testing.assert_array_equal(own.gold, enumerable.e64(3).gold)
    data = enumerable_task.world_of({"kind": "e32k", "world": None}, 5)
    np.testing.assert_array_equal(data.gold, enumerable.e32k(5).gold)


ARITH = {"below": 30, "wrong": 0.5, "filler": 0.2, "response_length": 6}
ARITH |= {"prompts": 60, "heldout": 40}


def test_arith_lm_has_disjoint_sums_and_a_verifiable_gold():
    section = Section(ARITH, "config.task")
    task = arith_task.arith_lm_task(section, 0, None)
    section.finish()
    sides = [
        {record.prompt for record in side.records}
        for side in (task.prompts, task.heldout)
    ]
    assert [len(side) for side in sides] == [60, 40] and not sides[0] & sides[1]
    record = task.heldout_demonstrations.records[0]
    assert len(record.response) <= task.response_length
    text = task.text(list(record.prompt), [True] * len(record.prompt))
    a, b = text.replace(" ", "").rstrip("=").split("+")
    units_first = str(int(a) + int(b)).zfill(2)[::-1]
    right = [*task.tokenizer.encode(" ".join(units_first)), arith_lm.EOS]
    wrong = right[::-1]
    assert score(task, [record.prompt], [right]).tolist() == [1.0]
    assert score(task, [record.prompt], [wrong]).tolist() == [0.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"response_length": 2}, "need 3 tokens"),
        ({"prompts": 900}, "900 sums"),
        ({"below": 1}, "at least 2"),
        ({"filler": 1.0}, "at most 0.9"),
        ({"layout": "align"}, "did you mean 'aligned'"),
    ],
)
def test_wrong_sums_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        arith_task.arith_lm_task(Section(ARITH | change, "config.task"), 0, None)


@pytest.mark.parametrize("read", [arith_task.arith_lm_task, enumerable_task.e64])
def test_worlds_have_tokens_of_their_own(read):
    with pytest.raises(UserError, match="leave the path out"):
        read(Section(ARITH | TASK, "config.task"), 0, "some/model")


def test_a_tabular_model_makes_the_networks_of_a_run():
    model = enumerable_task.TabularModel(E64)
    assert model.config.vocab_size == 6 and model.lora is None and model.path is None
    variables = model.first_weights(rng.root(0), placement.one_device())
    assert set(variables["params"]) == {"table"}
    value = model.scalar(head="zero").init(rng.root(0))
    reward = model.scalar(head="normal").init(rng.root(0))
    sizes = [float(jnp.abs(jax.tree.leaves(x)[0]).max()) for x in (value, reward)]
    assert sizes[0] == 0.0 < sizes[1]
    assert "head" in model.language(value_head=True).init(rng.root(0))["params"]
