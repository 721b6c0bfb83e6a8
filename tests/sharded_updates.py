"""Updates of each kind of learner on eight fake devices, against one device.

`python tests/sharded_updates.py CASE ...` prints `ok CASE` for each; a case is
`LEARNER:data,fsdp,tensor,sequence,slices` and means what `config.mesh` means by it.
"""

import os
import sys

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax  # noqa: E402
import numpy as np  # noqa: E402

from rlhf_jax import (  # noqa: E402
    advantages,
    algorithms,
    losses,
    metrics,
    networks,
    optimizers,
    rewards,
    rng,
    rollout,
    sharding,
)
from rlhf_jax.algorithms import preference_scoring  # noqa: E402
from rlhf_jax.build.configs import defaults
from rlhf_jax.build.configs.section import Section  # noqa: E402
from rlhf_jax.build.runs import models, placing
from rlhf_jax.losses import preference  # noqa: E402
from rlhf_jax.placement import one_device  # noqa: E402
from rlhf_jax.types import (  # noqa: E402
    ComparisonBatch,
    ModelInputs,
    PromptBatch,
    RankingBatch,
    SequenceBatch,
)

jax.config.update("jax_disable_most_optimizations", True)

ROWS, PROMPT, RESPONSE, VOCAB = 8, 8, 7, 32
LENGTH = PROMPT + RESPONSE
CONFIG = networks.presets.llama(
    vocab_size=VOCAB,
    width=16,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    mlp_width=32,
    max_length=LENGTH,
)
POLICY = networks.language_model(CONFIG, scan_layers=True, remat="full")
SCALAR = networks.scalar_model(CONFIG)
SEED = 3
DRAW = np.random.default_rng(0)


def optimizer():
    """Adam, with an epsilon that keeps the rounding of vanishing gradients small."""
    return optimizers.optimizer("adamw", 1e-2, eps=1e-3, weight_decay=0.1)


def inputs(*shape):
    tokens = DRAW.integers(2, VOCAB, shape)
    mask = (
        np.arange(shape[-1])
        < DRAW.integers(LENGTH // 2, LENGTH + 1, shape[:-1])[..., None]
    )
    positions = np.broadcast_to(np.arange(shape[-1]), shape)
    zeros = np.zeros(shape, np.int32)
    return ModelInputs(tokens.astype(np.int32), mask, positions.astype(np.int32), zeros)


def sft():
    learner = algorithms.fine_tuning(
        POLICY,
        initial=POLICY.init,
        loss=losses.combine(
            nll=losses.Term(losses.cross_entropy(), weight=1.0),
            reduction=losses.token_mean,
        ),
        optimizer=optimizer(),
        microbatches=2,
    )
    read = inputs(2 * ROWS, LENGTH)
    weight = np.ones(read.mask.shape, np.float32)
    batch = SequenceBatch(read, read.mask, weight, np.zeros_like(read.tokens))
    return learner, learner.update, {}, batch


def reward_model():
    learner = algorithms.reward_model(
        SCALAR,
        initial=SCALAR.init,
        loss=losses.combine(
            ranking=losses.Term(losses.bradley_terry(), weight=1.0),
            reduction=losses.sequence_mean,
        ),
        optimizer=optimizer(),
    )
    rows = np.arange(ROWS, dtype=np.int32)
    ranks = np.tile(np.asarray([[1, 2]], np.int32), (ROWS, 1))
    ones = np.ones(ROWS, np.float32)
    batch = RankingBatch(inputs(ROWS, 2, LENGTH), ranks, 0 * ones, rows, ones)
    return learner, learner.update, {}, batch


def dpo():
    needs = preference_scoring.needs(("dpo",))
    learner = algorithms.preference(
        POLICY,
        initial=POLICY.init,
        loss=losses.combine(
            reduction=losses.sequence_mean, dpo=preference.term("dpo", beta=0.5)
        ),
        optimizer=optimizer(),
        needs=needs,
        reference=POLICY,
    )
    read = inputs(ROWS, 2, LENGTH)
    response = read.mask & (np.arange(LENGTH) >= PROMPT)
    ranks = np.tile(np.asarray([[1, 2]], np.int32), (ROWS, 1))
    rows, ones = np.arange(ROWS, dtype=np.int32), np.ones(ROWS, np.float32)
    batch = ComparisonBatch(read, response, ranks, rows, ones)
    frozen = algorithms.PreferenceFrozen({}, POLICY.init(rng.root(5)))
    return learner, learner.update, frozen, batch


def ppo():
    policy = networks.language_model(CONFIG)
    model = rollout.reward_model_scorer(SCALAR, SCALAR.init(rng.root(7)))
    built = algorithms.ppo(
        policy=policy,
        value=SCALAR,
        initial=lambda key: {"policy": policy.init(key), "value": SCALAR.init(key)},
        sampler=rollout.sampler(
            policy,
            max_length=RESPONSE,
            stop_tokens=[1],
            pad_token=0,
            temperature=1.0,
            samples_per_prompt=2,
        ),
        scorer=model,
        shaping=rewards.chain(rewards.score_at_last_token(), rewards.kl_penalty(0.1)),
        estimator=advantages.whitened(advantages.gae(discount=1.0, lam=0.95)),
        loss=losses.combine(
            policy=losses.Term(losses.clipped_surrogate(clip_eps=0.2), weight=1.0),
            value=losses.Term(losses.clipped_value(clip_eps=0.2), weight=0.1),
            reduction=losses.token_mean,
        ),
        optimizers={name: optimizer() for name in ("policy", "value")},
        epochs=2,
        minibatches=2,
    )
    mask = np.arange(PROMPT) >= DRAW.integers(0, PROMPT // 2, ROWS)[:, None]
    tokens = np.where(mask, DRAW.integers(2, VOCAB, mask.shape), 0)
    rows, ones = np.arange(ROWS, dtype=np.int32), np.ones(ROWS, np.float32)
    batch = algorithms.PPOBatch(PromptBatch(tokens.astype(np.int32), mask, rows, ones))
    frozen = algorithms.Frozen(policy.init(rng.root(SEED)), model.init(), {})

    def update(state, frozen, batch):
        """The second step is told before it is taken: by the same program."""
        if int(state.step) == 1:
            built.explain(state, frozen, batch)
        return built.learner.update(state, frozen, batch)

    learner = built.learner._replace(update=update)
    return learner, built.programs.learn, frozen, batch


LEARNERS = {"sft": sft, "rm": reward_model, "dpo": dpo, "ppo": ppo}


def start(name, placement):
    """Learner, compiled step, state, frozen weights and batch, where they belong."""
    global DRAW
    DRAW = np.random.default_rng(0)
    learner, program, frozen, batch = LEARNERS[name]()
    where = placement.shardings(jax.eval_shape(learner.init, rng.root(SEED)))
    state = jax.jit(learner.init, out_shardings=where)(rng.root(SEED))
    return learner, program, state, placement.put(frozen), placement.batch(batch)


def two_steps(name, placement):
    """State after two updates by one program, and the metrics of each.

    States stay where they are.
    """
    with placement.active():
        learner, program, state, frozen, batch = start(name, placement)
        before, found = shardings(state), []
        for _ in range(2):
            state, measured = learner.update(state, frozen, batch)
            found.append(metrics.finish(measured))
    assert program._cache_size() == 1, name
    for (path, x), (_, y) in zip(before, shardings(state), strict=True):
        assert x == y, f"{name}: {path} drifts from {x} to {y}"
    return state, found


def shardings(state):
    flat = jax.tree_util.tree_leaves_with_path(state)
    return [(jax.tree_util.keystr(path), x.sharding) for path, x in flat]


def check_same(case, ours, theirs):
    """Parameters, moments and metrics of the mesh are those of one device."""
    states = [jax.device_get((x.params, x.opt_state)) for x in (ours[0], theirs[0])]
    flat, _ = jax.tree_util.tree_flatten_with_path(states[0])
    for (path, x), y in zip(flat, jax.tree.leaves(states[1]), strict=True):
        where = f"{case} {jax.tree_util.keystr(path)}"
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=2e-6, err_msg=where)
    for x, y in zip(ours[1], theirs[1], strict=True):
        for key in (key for key in y if not key.startswith("time/")):
            where = f"{case} {key}"
            np.testing.assert_allclose(x[key], y[key], 1e-4, 1e-5, err_msg=where)


def check_split(case, state, mesh):
    """The largest parameter of each group takes its share of each device."""
    parts = mesh.shape["fsdp"] * mesh.shape["tensor"]
    for group in state.params.values():
        largest = max(jax.tree.leaves(group), key=lambda x: x.nbytes)
        shares = {x.data.nbytes for x in largest.addressable_shards}
        assert shares == {largest.nbytes // parts}, (case, shares, largest.nbytes)


def check_collectives(case, placement):
    """Parameters are gathered where they are used, gradients are added up."""
    with placement.active():
        _, program, *arguments = start(case.split(":")[0], placement)
        text = program.lower(*arguments).compile().as_text()
    assert "all-gather(" in text, case
    assert "all-reduce(" in text or "reduce-scatter(" in text, case


def main(cases):
    alone = {}
    for case in cases:
        name, sizes = case.split(":")
        if name not in alone:
            alone[name] = two_steps(name, one_device())
        keys = (*sharding.AXES, "slices")
        mesh = dict(zip(keys, map(int, sizes.split(",")), strict=True))
        section = Section({**defaults.base().mesh, **mesh}, "config.mesh")
        placement = placing.placement(
            section, models.Model(CONFIG, None, {}, None, None)
        )
        state, found = two_steps(name, placement)
        check_same(case, (state, found), alone[name])
        check_split(case, state, placement.mesh)
        if case == "sft:1,4,2,1,1":
            check_collectives(case, placement)
        print("ok", case, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
