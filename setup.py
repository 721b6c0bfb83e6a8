"""Package metadata; tool settings live in pyproject.toml."""

from setuptools import find_packages, setup

setup(name="rlhf_jax", version="0.1.0", packages=find_packages(include=["rlhf_jax*"]), python_requires=">=3.11")
