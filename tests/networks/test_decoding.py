"""Variables laid out for decoding."""

import jax
import numpy as np
import pytest
from flax import traverse_util

from rlhf_jax import networks
from rlhf_jax.networks import layers
from rlhf_jax.ops import products

TOKENS = np.random.default_rng(2).integers(0, 23, (2, 5))


def last_names(variables):
    return {path[-1] for path in traverse_util.flatten_dict(dict(variables))}


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_turned_kernels_give_the_same(zoo, family, monkeypatch):
    """With biases and adapters; a chunk of many rows and one of few."""
    monkeypatch.setattr(products, "LARGE", 1)
    monkeypatch.setattr(products, "FEW_ROWS", 4)
    config = zoo.families[family](lora=networks.LoRA(rank=1))
    network = networks.language_model(config)
    variables, inputs = zoo.variables(network), zoo.inputs(TOKENS)
    turned = network.for_decoding(variables)
    for tree in turned["params"]["layers"]:
        assert layers.TURNED in last_names(tree) and "kernel" not in last_names(tree)
    cache, apply = network.init_cache(2, 5), jax.jit(network.apply)
    wanted = apply(variables, inputs).hidden
    for columns in (slice(0, 4), slice(4, 5)):
        chunk = jax.tree.map(lambda x, c=columns: x[:, c], inputs)
        outputs = apply(turned, chunk, cache)
        cache = outputs.cache
        np.testing.assert_allclose(outputs.hidden, wanted[:, columns], atol=1e-5)


def test_small_kernels_are_not_turned(zoo):
    network = networks.language_model(zoo.llama())
    laid_out = network.for_decoding(zoo.variables(network))
    for tree in laid_out["params"]["layers"]:
        assert layers.TURNED not in last_names(tree)
