"""The short part that also runs on the newest Python (and jax) found."""

import importlib
import json
import pathlib
import pkgutil
import subprocess
import sys

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


@pytest.mark.smoke
def test_the_whole_chain_runs_tiny(tmp_path):
    """SFT, labels, reward model, PPO and the table, as the command line runs them."""
    config = pathlib.Path(__file__).parents[1] / "experiments" / "quickstart.py"
    result = subprocess.run(
        [sys.executable, "-m", "rlhf_jax", "train", f"--config={config}:tiny"]
        + [f"--workdir={tmp_path}"],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    table = json.loads((tmp_path / "summary.json").read_text())["table"]
    assert {"sft", "ppo"} <= set(table)
    assert result.stdout.endswith(f"report: {tmp_path / 'report.html'}\n")
    assert (tmp_path / "report.html").stat().st_size > 1000
    _check_files_are_documented(tmp_path)


def _check_files_are_documented(run: pathlib.Path):
    """docs/runs.md names every file of the run, checkpoints as one."""
    page = (pathlib.Path(__file__).parents[1] / "docs" / "runs.md").read_text()
    for file in (path for path in run.rglob("*") if path.is_file()):
        first, *rest = file.relative_to(run).parts
        if first == "tensorboard" or rest[:1] == ["checkpoints"]:
            continue
        names = {"/".join((stage, *rest)) for stage in (first, "<stage>")}
        if first == "table":
            names.add("table/<row>.jsonl")
        assert any(f"`{name}`" in page for name in names), file
