"""The short part that also runs on the newest Python (and jax) found."""

import importlib
import pkgutil

import jax
import jax.numpy as jnp
import jaxtyping
import pytest

import rlhf_jax
from rlhf_jax import rng
from rlhf_jax.ops import kl


@pytest.mark.smoke
def test_every_module_imports():
    names = [m.name for m in pkgutil.walk_packages(rlhf_jax.__path__, "rlhf_jax.")]
    assert "rlhf_jax.types" in names
    for name in names:
        if not name.endswith("__main__"):
            importlib.import_module(name)


@pytest.mark.smoke
def test_typed_keys_are_threefry():
    key = rng.named(rng.root(0), "sampling", 3)
    assert jax.random.key_impl(key) == "threefry2x32"


@pytest.mark.smoke
def test_shape_annotations_are_enforced_in_tests():
    """`--jaxtyping-packages` is on, in every worker: shapes that differ are refused."""
    with pytest.raises(jaxtyping.TypeCheckError):
        kl.k1(jnp.zeros((2, 3)), jnp.zeros((3, 2)))


def test_rank_promotion_is_an_error():
    with pytest.raises(ValueError, match="rank_promotion"):
        jnp.zeros((2, 3)) + jnp.zeros(3)
