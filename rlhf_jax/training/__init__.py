"""Training: one loop, optimizers, checkpoints, writers, digests."""

from rlhf_jax.training.checkpoint import load_params as load_params
from rlhf_jax.training.checkpointer import Checkpointer as Checkpointer
from rlhf_jax.training.closeness import gaps as gaps
from rlhf_jax.training.digest import digest as digest
from rlhf_jax.training.loop import Batches as Batches
from rlhf_jax.training.loop import Evaluation as Evaluation
from rlhf_jax.training.loop import train as train
from rlhf_jax.training.monitoring import count_compiles as count_compiles
from rlhf_jax.training.retention import Retention as Retention
from rlhf_jax.training.stopping import Preempted as Preempted
from rlhf_jax.training.stopping import Stop as Stop
from rlhf_jax.training.writers import JsonlWriter as JsonlWriter
from rlhf_jax.training.writers import TensorBoardWriter as TensorBoardWriter
from rlhf_jax.training.writers import WandbWriter as WandbWriter
