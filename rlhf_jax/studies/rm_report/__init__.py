"""What a reward model does: accuracy, calibration, biases, robustness, drift.

Numpy on scores and labels; `results` measures, `write` writes `rm_report.json` (name ->
`{value, ci, verdict, n, unit, definition}`), `details.json` and `report.html`. Every
interval is 95 %, clustered by prompt.
"""

from rlhf_jax.studies.rm_report.biases import (
    length_bias,
    length_correlation,
    position_bias,
)
from rlhf_jax.studies.rm_report.calibration import Reliability, reliability
from rlhf_jax.studies.rm_report.entries import Entry
from rlhf_jax.studies.rm_report.output import Results, results, summary, write
from rlhf_jax.studies.rm_report.pairs import Pairs, Ranked, pairs
from rlhf_jax.studies.rm_report.robustness import (
    consistency,
    prompt_shuffle,
    repetition,
)
from rlhf_jax.studies.rm_report.shift import (
    Samples,
    auc,
    mahalanobis,
    out_of_distribution,
    score_drift,
)

__all__ = [
    "Entry",
    "Pairs",
    "Ranked",
    "Reliability",
    "Results",
    "Samples",
    "auc",
    "consistency",
    "length_bias",
    "length_correlation",
    "mahalanobis",
    "out_of_distribution",
    "pairs",
    "position_bias",
    "prompt_shuffle",
    "reliability",
    "repetition",
    "results",
    "score_drift",
    "summary",
    "write",
]
