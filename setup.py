"""Package metadata and dependencies; tool settings live in pyproject.toml."""

import pathlib
import re

from setuptools import find_packages, setup

here = pathlib.Path(__file__).parent
version = re.search(
    r'__version__ = "(.+)"', (here / "rlhf_jax" / "__init__.py").read_text()
).group(1)

# Exact versions, one set per Python version, are in constraints/.
requirements = [
    "absl-py>=2.1",
    "array_record>=0.8",
    "flax>=0.12,<0.13",
    "grain>=0.2.12",
    "importlib_resources",  # tensorflow-datasets reads its builders through it
    "jax>=0.10,<0.13",
    "jaxtyping>=0.3",
    "jinja2>=3.1",  # chat templates
    "matplotlib>=3.9",
    "ml_collections>=1.1",
    "numpy>=2.0",
    "optax>=0.2.5",
    "orbax-checkpoint>=0.12,<0.13",
    "safetensors>=0.5",
    "tensorboardX>=2.6",
    "tensorflow-datasets>=4.9.9",
    "tokenizers>=0.22",
    "tqdm>=4.66",
    "transformers>=5,<6",
]
extras = {
    "gpu": ["jax[cuda12]>=0.10,<0.13"],
    "tpu": ["jax[tpu]>=0.10,<0.13"],
    "wandb": ["wandb>=0.18"],
    "dev": [
        "beartype>=0.21",
        "hypothesis>=6.100",
        "pyright[nodejs]>=1.1.400",
        "pytest>=9",
        "pytest-xdist>=3.6",
        "ruff>=0.14",
        # The reference of the parity tests. Not beyond 3.11, so that the smoke run on
        # a newer interpreter stays small; those tests are skipped and counted there.
        'torch==2.13.0; python_version < "3.12"',
        # The compiler of `rlhf-jax plan` for TPUs, in the version of jax[tpu].
        "libtpu==0.0.42.*; python_version < '3.12' and platform_machine == 'x86_64'"
        " and platform_system == 'Linux'",
    ],
}

setup(
    name="rlhf_jax",
    version=version,
    description="Aligning language models from human feedback, in JAX and Flax",
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    packages=find_packages(include=["rlhf_jax", "rlhf_jax.*"]),
    python_requires=">=3.11",
    install_requires=requirements,
    extras_require=extras,
    entry_points={"console_scripts": ["rlhf-jax = rlhf_jax.cli.main:main"]},
    classifiers=[
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
