"""Every relative of PPO trains in both worlds, from a short file."""

import importlib.util
import json
from pathlib import Path

import pytest
import relatives

from rlhf_jax.build import experiment
from rlhf_jax.build.configs import combinations

FILES = sorted(Path("experiments/relatives").glob("*.py"))
PAGE = Path("docs/relatives.md")


def _variants(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.VARIANTS


SMALL = {
    "ppo.steps": "2",
    "ppo.batch_size": "8",
    "ppo.eval_prompts": "8",
    "ppo.shown_samples": "1",
    "ppo.term_gradients.every": "0",
    "task.prompts": "64",
    "task.heldout": "16",
}
CRITIC_FIRST = {"vapo": {"ppo.value_warmup": "1"}}
ARITH = {"sft.steps": "2", "sft.batch_size": "8", "table.batch_size": "16"}
ARITH |= {"ppo.eval_every": "0", "model.width": "16", "model.num_heads": "2"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_relative_is_a_short_file(path):
    assert len(path.read_text().splitlines()) <= 40
    assert {"e64", "arith"} <= set(_variants(path))
    assert f"| `{path.stem}` |" in PAGE.read_text()


@pytest.mark.parametrize(
    "spec",
    [
        f"{path.stem}.py:{variant}"
        for path in FILES
        for variant in _variants(path)
        if variant.startswith("e64")
    ],
)
def test_a_relative_is_held_to_its_target_in_e64(spec, tiny, tmp_path):
    first = CRITIC_FIRST.get(spec.split(".")[0], {})
    config = tiny(f"relatives/{spec}", **SMALL, **first)
    assert experiment.run(config, tmp_path) == 0
    found = json.loads((tmp_path / "summary.json").read_text())
    assert 0 <= found["tv"] <= 1 and found["j"] <= found["j_star"] + 1e-6
    assert found["target"]
    assert found["mass"] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    "name", ["grpo", "dapo", "remax", "vapo", "ppo_ptx", "expert_iteration"]
)
def test_a_relative_trains_on_sums(name, tiny, tmp_path):
    """Those that need something the others do not; all share the rest."""
    config = tiny(
        f"relatives/{name}.py:arith", **SMALL, **ARITH, **CRITIC_FIRST.get(name, {})
    )
    assert experiment.run(config, tmp_path) == 0
    table = json.loads((tmp_path / "summary.json").read_text())["table"]
    assert {"sft", "best_of_4", "ppo"} <= set(table)
    assert all(0 <= row["gold"]["mean"] <= 1 for row in table.values())


def test_the_page_lists_every_refusal():
    page = PAGE.read_text()
    assert relatives.replaced(page, "refused", combinations.table()) == page
