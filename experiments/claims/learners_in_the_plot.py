"""Learners among the exact curves: PPO, RLOO and DPO against best-of-n and the tilt.

Papers:   Gao, Schulman and Hilton 2023 (arXiv:2210.10760, section 3.5: reinforcement
          learning spends more KL than best-of-n), Rafailov et al. 2023
          (arXiv:2305.18290, the reward-KL frontier).
Command:  rlhf-jax reproduce R1-learners R6-ppo
Hardware: 2 CPU cores, some minutes.

World E32k: sampler, learner and losses are the package's own, the policy is a table,
and where it ends is enumerated.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rlhf_jax import advantages, algorithms, losses, rewards, rng, rollout
from rlhf_jax.losses import preference
from rlhf_jax.studies import reproduction as rep
from rlhf_jax.types import PromptBatch, Scorer, Scores
from rlhf_jax.worlds import boundaries, enumerable, optimized, prefixes, proxy, tabular

SUITES = ("nightly", "release")
SEEDS, FURTHER = tuple(range(5)), tuple(range(5, 12))
BATCH, MARKS = 256, (4, 10, 30, 240)
STEPS, DPO_MARKS = MARKS[-1], (5, 20, 75, 300)
PAIRS, BETA = 512, 0.3
VOCAB, LENGTH = 8, 5


def table_scorer():
    """Scores from a table over all responses, an argument of the compiled step."""

    @jax.jit
    def look_up(table, found):
        number = jnp.zeros(found.tokens.shape[0], jnp.int32)
        for t in range(LENGTH):
            number = number * VOCAB + found.tokens[:, t] - enumerable.FIRST
        return table[number]

    def apply(frozen, params, found):
        del params
        return Scores(look_up(frozen, found))

    return Scorer(lambda: jnp.zeros(VOCAB**LENGTH), apply)


@functools.cache
def learner(kind):
    """`rloo` or `ppo` with the KL in the reward; one for all worlds and scores."""
    shape = enumerable.World(VOCAB, LENGTH, np.zeros(1), np.zeros(VOCAB**LENGTH))
    policy, value = tabular.policy(shape), tabular.scalar(shape)
    critic = kind == "ppo"
    sample = rollout.sampler(
        policy,
        max_length=LENGTH,
        stop_tokens=(),
        pad_token=enumerable.PAD,
        temperature=1.0,
    )
    terms = {"policy": losses.Term(losses.clipped_surrogate(clip_eps=0.2))}
    estimator = advantages.leave_one_out(4)
    optimizers = {"policy": optax.adam(optax.linear_schedule(0.05, 0.0, STEPS))}
    if critic:
        terms["value"] = losses.Term(losses.squared_value(), weight=0.5)
        estimator = advantages.whitened(advantages.gae(discount=1.0, lam=0.95))
        optimizers["value"] = optax.adam(0.05)
    return algorithms.ppo(
        policy=policy,
        value=value if critic else None,
        initial=lambda key: {
            "policy": policy.init(key),
            **({"value": value.init(key)} if critic else {}),
        },
        sampler=boundaries.ends_at(sample, LENGTH),
        scorer=table_scorer(),
        shaping=rewards.chain(rewards.score_at_last_token(), rewards.kl_penalty(BETA)),
        estimator=estimator,
        loss=losses.combine(reduction=losses.sum_over(float(BATCH)), **terms),
        optimizers=optimizers,
        epochs=2 if critic else 1,
    )


def prompts():
    """The one empty prompt, many times."""
    return PromptBatch(
        tokens=jnp.full((BATCH, 1), enumerable.BOS, jnp.int32),
        mask=jnp.ones((BATCH, 1), bool),
        example_id=jnp.arange(BATCH, dtype=jnp.int32) // 4,
        weight=jnp.ones(BATCH, jnp.float32),
    )


def reinforced(world, kind, score, seed):
    """Policies along a run against a score: [mark response]."""
    built = learner(kind)
    state = built.learner.init(rng.root(seed))
    start = tabular.policy(world).init(rng.root(seed))
    begun = jax.tree.map(jnp.array, start)  # the state is donated
    state = state._replace(params={**state.params, "policy": begun})
    frozen = algorithms.Frozen(start, jnp.asarray(score, jnp.float32), {})
    found = []
    for step in range(STEPS):
        state, _ = built.learner.update(state, frozen, algorithms.PPOBatch(prompts()))
        if step + 1 in MARKS:
            table = tabular.logits(state.params["policy"])
            found.append(enumerable.distribution(table))
    return np.stack(found)


@functools.partial(jax.jit, static_argnames="beta")
def dpo_table(table, pairs, rows, contents, beta):
    """Tables along 300 Adam steps of DPO on pairs, the better first."""
    optimizer = optax.adam(0.05)

    def logprobs(table):
        return jnp.sum(jax.nn.log_softmax(table)[rows[pairs], contents[pairs]], axis=2)

    reference = logprobs(table)

    def loss(new):
        found = logprobs(new)
        return jnp.mean(preference.dpo_loss(*found.T, *reference.T, beta=beta))

    def step(carry, _):
        now, state = carry
        update, state = optimizer.update(jax.grad(loss)(now), state)
        return (optax.apply_updates(now, update), state), None

    carry, found = (table, optimizer.init(table)), []
    for count in np.diff((0, *DPO_MARKS)):
        carry, _ = jax.lax.scan(step, carry, None, length=int(count))
        found.append(carry[0])
    return jnp.stack(found)


def preferred(world, pairs):
    """Policies along DPO on the very pairs of the reward model: [mark response]."""
    start = jnp.asarray(tabular.reference_table(world), jnp.float32)
    places = prefixes.rows(VOCAB, LENGTH), enumerable.contents(VOCAB, LENGTH)
    found = dpo_table(start, pairs, *map(jnp.asarray, places), BETA)
    return np.stack([enumerable.distribution(np.asarray(t, np.float64)) for t in found])


def reward_model(world, seed):
    """(standardized scores of one reward model, its pairs), labels as in R1-peak."""
    key = rng.root(seed)
    pairs = proxy.compared(
        world, rng.named(key, "labels"), PAIRS, sharpness=2.0, flip=0.25
    )
    return proxy.learned(world, key, pairs[None], [PAIRS])[0], pairs


def placed(world, policies, score):
    """(KL, gold, score) of each policy."""
    reference = enumerable.reference(world)
    return np.asarray(
        [(enumerable.kl(p, reference), p @ world.gold, p @ score) for p in policies]
    )


def excess(world, points, column, score):
    """The most by which a point has more than any policy could at its KL."""
    gaps = [
        point[column] - enumerable.frontier(world, float(point[0]), score)
        for point in points
    ]
    return max(0.0, *gaps)


def learners(seed):
    """Where PPO, RLOO and DPO lie among the exact curves of one reward model."""
    world = enumerable.e32k(seed)
    score, pairs = reward_model(world, seed)
    runs = {
        "PPO": reinforced(world, "ppo", score, seed),
        "RLOO": reinforced(world, "rloo", score, seed),
        "DPO": preferred(world, pairs),
    }
    draws = tuple(2**k for k in range(15))
    best = optimized.best_of(world, score[None], draws)[0]
    tilts = optimized.tilts(world, score[None], np.geomspace(5.0, 0.1, 15))[0]
    found, curves = {}, []
    for column, name, own in ((1, "gold", None), (2, "proxy", score)):
        panel = f"{name.title()} against KL, {PAIRS} pairs, a quarter turned round"
        for label, curve in (("best-of-n", best), ("tilt by the proxy", tilts)):
            curves.append(rep.Curve(panel, label, curve[:, 0], curve[:, column]))
        for label, policies in runs.items():
            points = placed(world, policies, score)
            found[f"{label}: {name} above its frontier"] = excess(
                world, points, column, own
            )
            at = points[:, 0], points[:, column]
            curves.append(rep.Curve(panel, label, *at, kind="point"))
    return rep.Measured(found, curves)


def against_ppo(seed):
    """Best-of-n by gold less PPO on gold, at PPO's own KL near 1 nat."""
    world = enumerable.e32k(seed)
    points = placed(world, reinforced(world, "ppo", world.gold, seed), world.gold)
    draws = np.geomspace(1.0, 4096.0, 60)
    best = optimized.best_of(world, world.gold[None], draws)[0]
    early = points[np.argmin(np.abs(points[:, 0] - 1.0))]
    matched = float(np.interp(early[0], best[:, 0], best[:, 1]))
    return {
        "best-of-n less PPO": matched - float(early[1]),
        "KL of PPO": float(early[0]),
        "gold of PPO": float(early[1]),
    }


E32K = "E32k, a random world a seed; tables as policies, "
CLAIMS = (
    rep.Claim(
        id="R1-learners",
        paper="Gao, Schulman and Hilton 2023, section 3.5; Rafailov et al. 2023, "
        "section 6.1",
        statement="no learner has more gold, or more proxy, than the exact frontiers "
        "allow at its KL",
        protocol=E32K + "one reward model on 512 pairs a quarter of which are turned "
        "round; PPO with a critic and RLOO(4), KL coefficient 0.3, 240 updates on 256 "
        "responses; DPO, beta 0.3, 300 steps on the same pairs; four moments of each.",
        seeds=SEEDS,
        further_seeds=FURTHER,
        measure=learners,
        threshold={
            f"{label}: {name} above its frontier": rep.Exact(0.0, 0.01)
            for name in ("gold", "proxy")
            for label in ("PPO", "RLOO", "DPO")
        },
        full_scale=rep.FullScale(
            "Policy 1.2B, proxies of 3M to 3B; PPO with KL penalty 0.",
            "RL is far less KL-efficient than best-of-n; a KL penalty does not move "
            "the gold-KL frontier",
        ),
        suites=SUITES,
        unit="sd",
        plot=rep.Plot(
            "√ axis: KL to the reference [nats]",
            "reward [sd under the reference]",
            "Lines: exact, mean over seeds ± 1 standard error. Marks: learners at four "
            "moments, ± 1 standard error.",
            root_x=True,
        ),
    ),
    rep.Claim(
        id="R6-ppo",
        paper="Gao, Schulman and Hilton 2023, section 3.5",
        statement="at the same small KL best-of-n by gold has at least as much gold as "
        "PPO on gold",
        protocol=E32K + "PPO as in R1-learners with gold as its reward, the point "
        "nearest to 1 nat; best-of-n at the true KL of that point.",
        seeds=SEEDS,
        further_seeds=FURTHER,
        measure=against_ppo,
        threshold={"best-of-n less PPO": rep.Above(0.0)},
        full_scale=rep.FullScale(
            "Gold 6B, policy 1.2B.", "Best-of-n reaches the same gold with less KL"
        ),
        suites=SUITES,
        unit="sd of gold",
    ),
)
