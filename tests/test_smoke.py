"""The short part that also runs on the newest Python (and jax) found."""

import importlib
import pkgutil

import jax
import pytest

import rlhf_jax
from rlhf_jax import rng


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
