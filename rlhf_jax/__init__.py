"""Aligning models from human feedback, in JAX."""

__version__ = "0.1.0"
