"""Rollouts: sampling, log-probs of samples, scorers, best-of-n, evaluation."""

from rlhf_jax.rollout import best_of_n as best_of_n
from rlhf_jax.rollout import evaluate as evaluate
from rlhf_jax.rollout import measuring as measuring
from rlhf_jax.rollout.evaluate import Evaluation as Evaluation
from rlhf_jax.rollout.evaluate import evaluator as evaluator
from rlhf_jax.rollout.generation import Machine as Machine
from rlhf_jax.rollout.generation import SamplingState as SamplingState
from rlhf_jax.rollout.generation import machine as machine
from rlhf_jax.rollout.generation import prompt_inputs as prompt_inputs
from rlhf_jax.rollout.logits import check_trainable as check_trainable
from rlhf_jax.rollout.logits import requires_support as requires_support
from rlhf_jax.rollout.mixtures import geometric_mixture as geometric_mixture
from rlhf_jax.rollout.sampler import Sampler as Sampler
from rlhf_jax.rollout.sampler import at_temperature as at_temperature
from rlhf_jax.rollout.sampler import sampler as sampler
from rlhf_jax.rollout.sampler import sampling_program as sampling_program
from rlhf_jax.rollout.scorers import ensemble as ensemble
from rlhf_jax.rollout.scorers import last_token_scores as last_token_scores
from rlhf_jax.rollout.scorers import mean as mean
from rlhf_jax.rollout.scorers import mean_minus_std as mean_minus_std
from rlhf_jax.rollout.scorers import mean_minus_variance as mean_minus_variance
from rlhf_jax.rollout.scorers import minimum as minimum
from rlhf_jax.rollout.scorers import reward_model_program as reward_model_program
from rlhf_jax.rollout.scorers import reward_model_scorer as reward_model_scorer
from rlhf_jax.rollout.scorers import sum_of as sum_of
from rlhf_jax.rollout.scorers import world_scorer as world_scorer
from rlhf_jax.rollout.scoring import exact_kl as exact_kl
from rlhf_jax.rollout.scoring import exact_kl_from_hidden as exact_kl_from_hidden
from rlhf_jax.rollout.scoring import logprob_difference as logprob_difference
from rlhf_jax.rollout.scoring import logprobs_from_hidden as logprobs_from_hidden
from rlhf_jax.rollout.scoring import response_columns as response_columns
from rlhf_jax.rollout.scoring import response_hidden as response_hidden
from rlhf_jax.rollout.scoring import response_logprobs as response_logprobs
from rlhf_jax.rollout.scoring import sequences as sequences
from rlhf_jax.rollout.text_scorers import decode_rollout as decode_rollout
from rlhf_jax.rollout.text_scorers import (
    foreign_reward_model_scorer as foreign_reward_model_scorer,
)
from rlhf_jax.rollout.text_scorers import function_scorer as function_scorer
from rlhf_jax.rollout.text_scorers import load_function as load_function
