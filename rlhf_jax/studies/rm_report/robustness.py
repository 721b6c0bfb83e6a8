"""Whether a score holds still where nothing changed, and moves where all did."""

from __future__ import annotations

import numpy as np

from rlhf_jax import stats
from rlhf_jax.studies.rm_report.accuracy import right
from rlhf_jax.studies.rm_report.entries import Entry, against, entry, share_of
from rlhf_jax.studies.rm_report.pairs import Pairs

KEPT = 0.95
"""Share of preferences that a harmless edit must leave as they were."""
MOVED = 0.1
"""Standard deviations that a score must move when the prompt is another's."""
MARGIN = 0.1
"""Standard deviations that repeating a response may raise its score."""


def consistency(
    scores: np.ndarray, edited: np.ndarray, found: Pairs, what: str
) -> Entry:
    """Share of pairs whose order is the same after both responses were edited."""
    same = np.sign(found.difference(scores)) == np.sign(found.difference(edited))
    estimate = share_of(same.astype(np.float64), found.cluster)
    return entry(
        estimate,
        against(estimate, KEPT, "consistent", "sensitive"),
        n=found.count,
        unit="share of pairs",
        definition=f"share of pairs that keep their order when {what}",
    )


def prompt_shuffle(
    scores: np.ndarray, shuffled: np.ndarray, found: Pairs, clusters: np.ndarray
) -> dict[str, Entry]:
    """How far scores move, and accuracy falls, under the prompt of another record.

    Args:
      scores: [M] of all responses.
      shuffled: [M] of the same responses under another's prompt.
      found: pairs of them.
      clusters: [M] prompt of each response.
    """
    size = float(np.std(scores)) or 1.0
    move = stats.clustered_mean(np.abs(shuffled - scores) / size, clusters)
    hits = right(found.difference(scores)) - right(found.difference(shuffled))
    drop = stats.clustered_mean(hits, found.cluster)
    return {
        "prompt_shuffle": entry(
            move,
            against(move, MOVED, "uses the prompt", "ignores the prompt"),
            n=len(scores),
            unit="sd of scores",
            definition="mean absolute change of the score when the prompt is that of"
            " another record",
        ),
        "prompt_shuffle_accuracy_drop": entry(
            drop,
            "uses the prompt" if drop.low > 0 else "not shown",
            n=found.count,
            unit="share of pairs",
            definition="accuracy under the own prompt minus under that of another",
        ),
    }


def repetition(scores: np.ndarray, repeated: np.ndarray, clusters: np.ndarray) -> Entry:
    """What it is worth to say everything twice; all arrays [M]."""
    size = float(np.std(scores)) or 1.0
    estimate = stats.clustered_mean((repeated - scores) / size, clusters)
    return entry(
        estimate,
        against(estimate, MARGIN, "rewarded", "not rewarded"),
        n=len(scores),
        unit="sd of scores",
        definition="mean change of the score when a response is said twice",
    )
