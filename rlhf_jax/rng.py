"""Random keys by name and step: one typed threefry root, nobody stores a split."""

from __future__ import annotations

import zlib

import jax

Array = jax.Array


def root(seed: int) -> Array:
    """The typed root key of one purpose (init, data, sampling or label seed)."""
    return jax.random.key(seed, impl="threefry2x32")


def named(key: Array, *names: str | int | Array) -> Array:
    """Fold names (text or step numbers) into a key, in order."""
    for name in names:
        data = zlib.crc32(name.encode()) if isinstance(name, str) else name
        key = jax.random.fold_in(key, data)
    return key
