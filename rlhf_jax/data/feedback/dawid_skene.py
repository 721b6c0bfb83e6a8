"""Labels denoised: each annotator's error rates and each item's true class, by EM."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from rlhf_jax.errors import UserError


class DawidSkene(NamedTuple):
    """What `fit` finds.

    Attributes:
      posterior: float64[items, classes], P(true class | all labels of the item).
      prior: float64[classes].
      confusion: float64[annotators, classes, classes], P(label | true class); a row is
        a true class.
      log_likelihood: of the labels, after every round.
    """

    posterior: np.ndarray
    prior: np.ndarray
    confusion: np.ndarray
    log_likelihood: tuple[float, ...]

    def labels(self) -> np.ndarray:
        """int64[items], the likeliest class of each."""
        return np.argmax(self.posterior, axis=1)


def fit(
    items: Any,
    annotators: Any,
    labels: Any,
    *,
    rounds: int = 100,
    smoothing: float = 0.01,
    tolerance: float = 1e-8,
) -> DawidSkene:
    """Dawid and Skene's model (1979): true classes z, labels of P(l | z, annotator).

    EM from the shares of the labels. M: `prior_c = mean_i T_ic`, `confusion_acl ~
    sum over labels l of annotator a on item i of T_ic`. E: `T_ic ~ prior_c prod
    confusion_acl`. With smoothing s every count of the M step has s added (a Dirichlet
    prior), so that what was never seen is not impossible; 0 is the paper's form.

    Args:
      items: int[N], which item each label is about, 0 ..
      annotators: int[N], who gave it, 0 ..
      labels: int[N], the class, 0 ..
      rounds: of EM at most.
      smoothing: pseudo-count, at least 0.
      tolerance: stop where the log-likelihood per label gains less.

    Raises:
      UserError: arrays of different or no length, or an item without a label.
    """
    items, annotators, labels = (
        np.asarray(x, np.int64) for x in (items, annotators, labels)
    )
    if not (items.shape == annotators.shape == labels.shape) or not items.size:
        raise UserError(
            "Dawid-Skene needs one item, annotator and class for each label, got "
            f"{items.shape}, {annotators.shape} and {labels.shape}"
        )
    classes = int(labels.max()) + 1
    size = (int(annotators.max()) + 1, classes, classes)
    posterior = np.zeros((items.max() + 1, size[1]))
    np.add.at(posterior, (items, labels), 1.0)
    if np.any(posterior.sum(axis=1) == 0):
        raise UserError(f"item {int(np.argmin(posterior.sum(axis=1)))} has no label")
    posterior /= posterior.sum(axis=1, keepdims=True)
    history: list[float] = []
    for _ in range(rounds):
        prior, confusion = _maximize(
            posterior, items, annotators, labels, size, smoothing
        )
        posterior, likelihood = _expect(prior, confusion, items, annotators, labels)
        history.append(likelihood)
        if len(history) > 1 and history[-1] - history[-2] < tolerance * items.size:
            break
    return DawidSkene(posterior, prior, confusion, tuple(history))


def _maximize(
    posterior: np.ndarray,
    items: np.ndarray,
    annotators: np.ndarray,
    labels: np.ndarray,
    size: tuple[int, int, int],
    smoothing: float,
) -> tuple[np.ndarray, np.ndarray]:
    prior = posterior.sum(axis=0) + smoothing
    counts = np.full(size, float(smoothing))
    # counts[a, :, l] += T[i]
    np.add.at(counts.transpose(0, 2, 1), (annotators, labels), posterior[items])
    rows = counts.sum(axis=2, keepdims=True)
    confusion = np.divide(counts, rows, out=np.full(size, 1 / size[1]), where=rows > 0)
    return prior / prior.sum(), confusion


def _expect(
    prior: np.ndarray,
    confusion: np.ndarray,
    items: np.ndarray,
    annotators: np.ndarray,
    labels: np.ndarray,
) -> tuple[np.ndarray, float]:
    with np.errstate(divide="ignore"):
        log = np.tile(np.log(prior), (items.max() + 1, 1))
        np.add.at(log, items, np.log(confusion[annotators, :, labels]))
    top = log.max(axis=1, keepdims=True)
    weights = np.exp(log - top)
    total = weights.sum(axis=1, keepdims=True)
    return weights / total, float(np.sum(top + np.log(total)))
