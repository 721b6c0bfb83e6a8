"""Rankings of K responses: what more responses, and the right likelihood, are worth.

Papers:   Ouyang et al. 2022 (arXiv:2203.02155, all pairs of a prompt as one element
          of the batch), Plackett 1975 and Luce 1959 (the likelihood of a ranking),
          Rafailov et al. 2023 (arXiv:2305.18290, appendix A.3: DPO for rankings).
Command:  rlhf-jax reproduce R7-identity R7-rankings R7-batching
Hardware: 2 CPU cores, about a minute.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rlhf_jax import losses, rng, types
from rlhf_jax.losses import preference
from rlhf_jax.studies import reproduction as rep
from rlhf_jax.worlds import enumerable, proxy

SEEDS, FURTHER = tuple(range(8)), tuple(range(8, 24))
NIGHTLY = ("nightly", "release")
RANKINGS = 1000
TERMS = {
    "bradley_terry": losses.bradley_terry(),
    "plackett_luce": losses.plackett_luce(),
    "all_pairs": losses.all_pairs(),
    "best_of_k": losses.best_of_k(),
}


def values(name, scores):
    """A ranking term on scores [B K], the best response first."""
    rows, count = scores.shape
    batch = types.RankingBatch(
        inputs=None,
        ranks=jnp.broadcast_to(1 + jnp.arange(count), (rows, count)),
        margin=jnp.zeros(rows, scores.dtype),
        example_id=jnp.arange(rows),
        weight=jnp.ones(rows, jnp.float32),
    )
    return TERMS[name](scores, batch)[0]


def stages(scores):
    """Plackett-Luce without ties, best response first: a choice a stage."""
    rest = jax.lax.cumlogsumexp(scores, axis=1, reverse=True)
    return jnp.sum(rest - scores, axis=1)


def pairs_of(scores):
    """Mean of Bradley-Terry over the pairs of a ranking, best response first."""
    first, second = np.triu_indices(scores.shape[1], 1)
    return jnp.mean(jax.nn.softplus(scores[:, second] - scores[:, first]), axis=1)


PLAIN = {"plackett_luce": stages, "all_pairs": pairs_of}
"""What the terms are where nothing ties; a claim holds them to it."""


def identities(seed):
    """The largest differences between forms that must be one, float64."""
    draw = np.random.default_rng(seed)
    with jax.enable_x64(True):
        pairs, four = (jnp.asarray(draw.normal(size=(64, k)) * 3) for k in (2, 4))
        other = jnp.asarray(draw.normal(size=(64, 2)))
        ranks = jnp.broadcast_to(jnp.asarray([1, 2]), (64, 2))
        ranked = preference.plackett_luce_dpo_loss(pairs, other, ranks, beta=0.3)
        paired = preference.dpo_loss(*pairs.T, *other.T, beta=0.3)

        def slope(loss):
            return jax.grad(lambda scores: jnp.sum(loss(scores)))(four)

        together = slope(lambda scores: values("all_pairs", scores)) - slope(pairs_of)
        staged = values("plackett_luce", four) - stages(four)
        forms = [values(name, pairs) for name in TERMS]
        apart = [np.abs(form - forms[0]).max() for form in forms]
        return {
            "K = 2, from Bradley-Terry": float(max(apart)),
            "K = 2, ranked DPO from DPO": float(np.abs(ranked - paired).max()),
            "K = 4, gradient from that of six pairs": float(np.abs(together).max()),
            "K = 4, Plackett-Luce from its stages": float(np.abs(staged).max()),
        }


def pair_features(world):
    """One-hot tokens and one-hot neighbors: gold of E32k is linear in these."""
    tokens = enumerable.contents(world.vocab, world.length)
    neighbors = tokens[:, :-1] * world.vocab + tokens[:, 1:]
    hot = np.eye(world.vocab**2, dtype=np.float32)[neighbors]
    return np.concatenate([proxy.features(world), hot.reshape(world.size, -1)], axis=1)


@functools.partial(jax.jit, static_argnames="name")
def maximum_likelihood(name, items):
    """Weights of a linear score, from features [C K F] of rankings."""
    optimizer = optax.adam(optax.cosine_decay_schedule(0.1, 400))

    def loss(weights):
        return jnp.mean(PLAIN[name](items @ weights))

    def step(carry, _):
        weights, state = carry
        update, state = optimizer.update(jax.grad(loss)(weights), state)
        return (optax.apply_updates(weights, update), state), None

    start = jnp.zeros(items.shape[-1])
    return jax.lax.scan(step, (start, optimizer.init(start)), None, length=400)[0][0]


def error(world, hot, weights):
    """Root mean square error of the centered score under the reference."""
    off = hot @ np.asarray(weights, np.float64) - world.gold
    mass = enumerable.reference(world)
    return float(np.sqrt(mass @ (off - mass @ off) ** 2))


def ranking_errors(seed):
    """Errors by the number of responses and the loss, same number of rankings."""
    world, key = enumerable.e32k(seed), rng.root(seed)
    hot, found = pair_features(world), {}
    for count in (2, 4, 9):
        drawn = proxy.compared(
            world, rng.named(key, "rankings", count), RANKINGS, responses=count
        )
        items = jnp.asarray(hot)[drawn]
        for name in PLAIN:
            weights = maximum_likelihood(name, items)
            found[name, count] = error(world, hot, weights)
        if count == 4:
            rows = np.random.default_rng(seed).random((RANKINGS, 4)).argsort(axis=1)
            two = np.sort(rows[:, :2], axis=1)  # a random pair, the better first
            items = items[np.arange(RANKINGS)[:, None], two]
            weights = maximum_likelihood("all_pairs", items)
            found["one pair", 4] = error(world, hot, weights)
    likelihood = [found["plackett_luce", k] for k in (2, 4, 9)]
    counts = np.log2([2, 4, 9])
    curves = [
        rep.Curve("Error of the reward", "Plackett-Luce", counts, likelihood),
        rep.Curve(
            "Error of the reward",
            "all pairs",
            counts,
            [found["all_pairs", k] for k in (2, 4, 9)],
        ),
    ]
    quantities = {
        "Plackett-Luce, K = 4 less K = 2": likelihood[1] - likelihood[0],
        "Plackett-Luce, K = 9 less K = 4": likelihood[2] - likelihood[1],
        "all pairs less one pair, K = 4": found["all_pairs", 4] - found["one pair", 4],
    }
    for count in (4, 9):
        gap = found["plackett_luce", count] - found["all_pairs", count]
        quantities[f"Plackett-Luce less all pairs, K = {count}"] = gap
    return rep.Measured(quantities, curves)


def batching(seed):
    """One pass over rankings of six, or over their pairs shuffled, eight an update."""
    world, key = enumerable.e32k(seed), rng.root(seed)
    hot, rankings = jnp.asarray(proxy.features(world)), 256
    drawn = proxy.compared(world, rng.named(key, "six"), rankings, responses=6)
    fresh = proxy.compared(world, rng.named(key, "fresh"), 4000)
    pairs = np.asarray(drawn)[:, np.stack(np.triu_indices(6, 1), axis=1)].reshape(-1, 2)
    start = proxy.initial(rng.named(key, "start"), 1, hot.shape[1], 64)
    found = {}
    for name, data in (("together", drawn), ("apart", jnp.asarray(pairs))):
        trained = proxy.train(
            start,
            hot,
            data[None],
            jnp.asarray([len(data)]),
            rng.named(key, "train"),
            loss=pairs_of,
            steps=len(data) // 8,
            batch_size=8,
        )
        one = jax.tree.map(lambda x: x[0], trained)
        seen, new = (
            float(jnp.mean(pairs_of(proxy.scores(one, hot[rows]))))
            for rows in (jnp.asarray(pairs), fresh)
        )
        found[name] = (seen, new)
    return {
        "held-out less training loss, apart less together": (
            found["apart"][1] - found["apart"][0]
        )
        - (found["together"][1] - found["together"][0]),
        "held-out loss, together": found["together"][1],
        "held-out loss, apart": found["apart"][1],
    }


INSTRUCT = "Ouyang et al. 2022, Training language models to follow instructions, eq. 1"
FULL = rep.FullScale(
    "6B reward model, K = 4 to 9 (Nectar, K = 7, as public data), learning rate 9e-6, "
    "64 prompts a batch, 1 epoch.",
    "Accuracy 72.4 ± 0.4 % (training labelers), 69.6 ± 0.9 % (held-out labelers); "
    "shuffled pairs overfit within an epoch",
)
RANKED = (
    "E32k, a random world a seed, responses of the reference, rankings drawn by "
    "Plackett-Luce in gold. "
)

CLAIMS = (
    rep.Claim(
        id="R7-identity",
        paper=INSTRUCT + "; Rafailov et al. 2023, appendix A.3",
        statement="with K = 2 every ranking loss is Bradley-Terry's and ranked DPO is "
        "DPO; a prompt's pairs as one element have the gradient of the single pairs",
        protocol="64 random rows of scores a seed, float64, the largest difference.",
        seeds=SEEDS,
        measure=identities,
        threshold={
            "K = 2, from Bradley-Terry": rep.Exact(0.0, 1e-12),
            "K = 2, ranked DPO from DPO": rep.Exact(0.0, 1e-12),
            "K = 4, gradient from that of six pairs": rep.Exact(0.0, 1e-12),
            "K = 4, Plackett-Luce from its stages": rep.Exact(0.0, 1e-12),
        },
        full_scale=FULL,
        suites=("smoke", *NIGHTLY),
    ),
    rep.Claim(
        id="R7-rankings",
        paper=INSTRUCT,
        statement="at the same number of rankings more responses give a better reward; "
        "all pairs beat one pair, and the ranking's own likelihood beats all pairs",
        protocol=RANKED + "1000 rankings of 2, 4 and 9, a linear score that can be "
        "gold, fitted to convergence; differences of root mean square errors.",
        seeds=SEEDS,
        further_seeds=FURTHER,
        measure=ranking_errors,
        threshold={
            "Plackett-Luce, K = 4 less K = 2": rep.Below(0.0),
            "Plackett-Luce, K = 9 less K = 4": rep.Below(0.0),
            "all pairs less one pair, K = 4": rep.Below(0.0),
            "Plackett-Luce less all pairs, K = 4": rep.Below(0.0),
            "Plackett-Luce less all pairs, K = 9": rep.Below(0.0),
        },
        full_scale=FULL,
        suites=NIGHTLY,
        unit="sd of gold",
        plot=rep.Plot(
            "log2 of K",
            "root mean square error [sd of gold]",
            "Mean over seeds; band: ± 1 standard error.",
        ),
    ),
    rep.Claim(
        id="R7-batching",
        paper=INSTRUCT + ", section 3.5",
        statement="one pass over shuffled pairs overfits more than one pass over whole "
        "rankings",
        protocol=RANKED + "256 rankings of 6, reward model of 64 hidden units, 8 "
        "elements an update, one pass: 32 updates on rankings, 480 on pairs.",
        seeds=SEEDS,
        further_seeds=FURTHER,
        measure=batching,
        threshold={"held-out less training loss, apart less together": rep.Above(0.0)},
        full_scale=FULL,
        suites=NIGHTLY,
        unit="nats",
    ),
)
