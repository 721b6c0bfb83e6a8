"""Direct preference losses: from comparisons and labels to a policy, without RL.

Every method is a small function of sequence log-probs (`dpo_loss(policy_chosen,
policy_rejected, ref_chosen, ref_rejected, beta=0.1) -> float[B]`) and a loss term for
`losses.combine` (`dpo(beta=0.1)`). Where a method couples the batch, its preparation
stands beside it:

==================  ===============================  ===============================
batch               terms                            `Term(..., prepare=...)`
==================  ===============================  ===============================
`PreferenceBatch`   dpo cdpo robust ipo              none
  (K = 2)           ipo_per_token hinge rso exo
                    discopop normalized_dpo
                    length_penalized_dpo rpo f_dpo
                    forward_kl_dpo
                    jensen_shannon_dpo alpha_dpo
                    nca apo_zero apo_down
                    sppo_hard
  with wins         sppo nash_md                     none (`support=everyone`)
  no reference      orpo simpo cpo slic chosen_nll   none
                    aot                              `aot_matching`
                    aot_unpaired                     `aot_unpaired_matching`
                    kto_pairs                        `pairs_reference_point`
                    bco_pairs                        `pairs_running_mean(beta)`
  (any K)           plackett_luce_dpo                none
`LabelBatch`        kto                              `reference_point`
                    bco                              `running_mean(beta)`
==================  ===============================  ===============================

`term(name, **options)` makes a whole `Term` by name, and `METHODS[name]` says which
batch it takes and what must be scored for it.
"""

from rlhf_jax.losses.preference.batches import (
    LabelBatch,
    Pairs,
    PreferenceBatch,
    PreferenceOutputs,
    pair_term,
    sequence_logprobs,
    split_pairs,
)
from rlhf_jax.losses.preference.divergences import (
    alpha_divergence,
    f_dpo_loss,
    forward_kl,
    jensen_shannon,
)
from rlhf_jax.losses.preference.games import (
    everyone,
    nash_md,
    nash_md_loss,
    nash_md_per_token_loss,
    sppo,
)
from rlhf_jax.losses.preference.lengths import (
    length_penalized_dpo_loss,
    normalized_dpo_loss,
    rpo_loss,
)
from rlhf_jax.losses.preference.methods import METHODS, Method, method, term
from rlhf_jax.losses.preference.pairwise import (
    cdpo_loss,
    discopop_loss,
    dpo_loss,
    exo_loss,
    hinge_loss,
    ipo_loss,
    ipo_per_token_loss,
    robust_loss,
    rso_loss,
)
from rlhf_jax.losses.preference.rankings import (
    plackett_luce_dpo,
    plackett_luce_dpo_loss,
)
from rlhf_jax.losses.preference.reference_free import (
    chosen_nll,
    cpo,
    cpo_loss,
    log_odds,
    orpo,
    orpo_loss,
    simpo,
    simpo_loss,
    slic,
    slic_loss,
)
from rlhf_jax.losses.preference.separate import (
    apo_down_loss,
    apo_zero_loss,
    nca_loss,
    sppo_loss,
)
from rlhf_jax.losses.preference.terms import (
    alpha_dpo,
    apo_down,
    apo_zero,
    cdpo,
    discopop,
    dpo,
    exo,
    f_dpo,
    forward_kl_dpo,
    hinge,
    ipo,
    ipo_per_token,
    jensen_shannon_dpo,
    length_penalized_dpo,
    nca,
    normalized_dpo,
    robust,
    rpo,
    rso,
    sppo_hard,
)
from rlhf_jax.losses.preference.transport import (
    aot,
    aot_loss,
    aot_matching,
    aot_unpaired,
    aot_unpaired_loss,
    aot_unpaired_matching,
)
from rlhf_jax.losses.preference.unpaired import (
    bco,
    bco_loss,
    kto,
    kto_loss,
    mismatched,
    reference_point,
    running_mean,
)
from rlhf_jax.losses.preference.unpairing import (
    bco_pairs,
    kto_pairs,
    labels_of_pairs,
    pairs_reference_point,
    pairs_running_mean,
)

__all__ = [
    "LabelBatch",
    "METHODS",
    "Method",
    "Pairs",
    "PreferenceBatch",
    "PreferenceOutputs",
    "alpha_divergence",
    "alpha_dpo",
    "aot",
    "aot_loss",
    "aot_matching",
    "aot_unpaired",
    "aot_unpaired_loss",
    "aot_unpaired_matching",
    "apo_down",
    "apo_down_loss",
    "apo_zero",
    "apo_zero_loss",
    "bco",
    "bco_loss",
    "bco_pairs",
    "cdpo",
    "cdpo_loss",
    "chosen_nll",
    "cpo",
    "cpo_loss",
    "discopop",
    "discopop_loss",
    "dpo",
    "dpo_loss",
    "everyone",
    "exo",
    "exo_loss",
    "f_dpo",
    "f_dpo_loss",
    "forward_kl",
    "forward_kl_dpo",
    "hinge",
    "hinge_loss",
    "ipo",
    "ipo_loss",
    "ipo_per_token",
    "ipo_per_token_loss",
    "jensen_shannon",
    "jensen_shannon_dpo",
    "kto",
    "kto_loss",
    "kto_pairs",
    "labels_of_pairs",
    "length_penalized_dpo",
    "length_penalized_dpo_loss",
    "log_odds",
    "method",
    "mismatched",
    "nash_md",
    "nash_md_loss",
    "nash_md_per_token_loss",
    "nca",
    "nca_loss",
    "normalized_dpo",
    "normalized_dpo_loss",
    "orpo",
    "orpo_loss",
    "pair_term",
    "pairs_reference_point",
    "pairs_running_mean",
    "plackett_luce_dpo",
    "plackett_luce_dpo_loss",
    "reference_point",
    "robust",
    "robust_loss",
    "rpo",
    "rpo_loss",
    "rso",
    "rso_loss",
    "running_mean",
    "sequence_logprobs",
    "simpo",
    "simpo_loss",
    "slic",
    "slic_loss",
    "split_pairs",
    "sppo",
    "sppo_hard",
    "sppo_loss",
    "term",
]
