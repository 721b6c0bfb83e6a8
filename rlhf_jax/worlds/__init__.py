"""Small worlds with a known gold reward."""

from rlhf_jax.worlds import key_lm as key_lm
