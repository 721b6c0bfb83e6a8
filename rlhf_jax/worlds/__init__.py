"""Small worlds with a known gold reward.

`enumerable` worlds (E64, E32k) have few enough responses to sum over: exact optimum,
exact KL, and with `fixed_points` the point where each relative of PPO really ends.
`tabular` networks put them under any learner, and `games` lets two policies play for a
preference. `key_lm` and `arith_lm` are small
language tasks; `annotators` label with known truth.
"""

from rlhf_jax.worlds import annotators as annotators
from rlhf_jax.worlds import arith_lm as arith_lm
from rlhf_jax.worlds import boundaries as boundaries
from rlhf_jax.worlds import enumerable as enumerable
from rlhf_jax.worlds import expected as expected
from rlhf_jax.worlds import fixed_points as fixed_points
from rlhf_jax.worlds import games as games
from rlhf_jax.worlds import groups as groups
from rlhf_jax.worlds import key_lm as key_lm
from rlhf_jax.worlds import relatives as relatives
from rlhf_jax.worlds import tabular as tabular
from rlhf_jax.worlds.boundaries import ends_at as ends_at
from rlhf_jax.worlds.boundaries import restricted as restricted
