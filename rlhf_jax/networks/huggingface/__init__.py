"""Checkpoints of the Hugging Face format, read and written by tables of our own.

config, variables = huggingface.load(directory, dtype=jnp.bfloat16)
network = networks.language_model(config)
huggingface.save(other_directory, config, variables)
"""

from rlhf_jax.networks.huggingface.formatting import config_to_huggingface
from rlhf_jax.networks.huggingface.parsing import config_from_huggingface
from rlhf_jax.networks.huggingface.reading import check, is_scalar, load, read_json
from rlhf_jax.networks.huggingface.writing import save

__all__ = [
    "check",
    "config_from_huggingface",
    "config_to_huggingface",
    "is_scalar",
    "load",
    "read_json",
    "save",
]
