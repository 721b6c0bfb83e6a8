"""References and reward models in two bytes a parameter: bytes, values, plan."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command_line import QUICKSTART, inputs

from rlhf_jax import networks, planning, rng
from rlhf_jax.build import experiment
from rlhf_jax.build.commands import opening
from rlhf_jax.build.configs import loading
from rlhf_jax.build.runs import elsewhere
from rlhf_jax.training.stopping import Stop

pytestmark = pytest.mark.optimized

TOKENS = np.random.default_rng(0).integers(2, 40, (3, 12))


def built(tmp_path, **settings):
    """Context and stages of the tiny quickstart, by stage name."""
    config = loading.load(f"{QUICKSTART}:tiny")
    settings = {name.replace("__", "."): value for name, value in settings.items()}
    loading.override(config, settings)
    context, stages = experiment.build(config, tmp_path, Stop())
    return context, {stage.name: stage for stage in stages}


def noisy(network):
    """Variables all of which differ from their start, norms too."""
    made = network.init(rng.root(0))
    leaves, structure = jax.tree.flatten(made)
    keys = jax.random.split(rng.root(1), len(leaves))
    return structure.unflatten(
        x + 0.1 * jax.random.normal(key, x.shape, x.dtype)
        for key, x in zip(keys, leaves, strict=True)
    )


def outputs(network, variables):
    """Logits or scalars [B L ...], float32."""
    found = network.apply(variables, inputs(TOKENS))
    if found.scalars is not None:
        return np.float32(found.scalars)
    return np.float32(networks.logits(network, variables, found.hidden))


@pytest.mark.parametrize("kind", ["language", "scalar"])
def test_no_number_changes_where_the_computation_is_as_narrow(kind, tmp_path):
    """Networks cast these variables themselves; the others stay in float32."""
    model = built(tmp_path, model__frozen_dtype="bfloat16", model__dtype="bfloat16")[0]
    network = getattr(model.model, kind)()
    variables = noisy(network)
    held = model.model.held(variables)
    np.testing.assert_array_equal(outputs(network, held), outputs(network, variables))
    everything = jax.tree.map(lambda x: x.astype(jnp.bfloat16), variables)
    assert np.any(outputs(network, everything) != outputs(network, variables))


@pytest.mark.parametrize("kind", ["language", "scalar"])
def test_in_float32_values_move_by_the_rounding_of_bfloat16(kind, tmp_path):
    model = built(tmp_path, model__frozen_dtype="bfloat16")[0].model
    network = getattr(model, kind)()
    variables = noisy(network)
    exact, found = outputs(network, variables), outputs(network, model.held(variables))
    gap = np.abs(found - exact).max() / np.abs(exact).max()
    assert 0 < gap < 4 * 2**-8


def test_a_compiled_program_is_given_half_the_bytes(tmp_path):
    model = built(tmp_path, model__frozen_dtype="bfloat16")[0].model
    network = model.language()
    variables = jax.eval_shape(network.init, rng.root(0))
    held = jax.eval_shape(model.held, variables)

    def arguments(tree):
        program = jax.jit(lambda v: network.apply(v, inputs(TOKENS)).hidden)
        return planning.compile_program(program, (tree,)).memory.arguments

    norms = sum(
        4 * x.size
        for path, x in jax.tree_util.tree_leaves_with_path(variables)
        if path[-1].key == "scale"
    )
    assert norms and arguments(held) - norms == (arguments(variables) - norms) / 2


def test_what_is_planned_is_what_runs(tmp_path):
    """The programs of PPO are planned with what its stage would hold."""
    dtypes = {}
    for name in ("None", "bfloat16"):
        _, stages = built(tmp_path, model__frozen_dtype=name)
        learn = {one.name: one for one in stages["ppo"].plan().programs}["learn"]
        state, frozen, *_ = learn.arguments
        trained = state.params["policy"]["params"]["embedding"]["tokens"].dtype
        asked = frozen.reference["params"]["embedding"]["tokens"].dtype
        (scorer,), *_ = learn.beside
        judge = scorer["variables"]["params"]["embedding"]["tokens"].dtype
        dtypes[name] = [str(x) for x in (trained, asked, judge)]
    assert dtypes["None"] == ["float32"] * 3
    assert dtypes["bfloat16"] == ["float32", "bfloat16", "bfloat16"]


def test_a_reward_model_of_another_run_is_held_so_too(tmp_path, monkeypatch):
    context = built(tmp_path / "run", model__frozen_dtype="bfloat16")[0]
    network = context.model.scalar()
    there = opening.Opened(
        *("there", network, network.init(rng.root(0)), True, 2.0, 1.0),
        *(context.task.encoder, (1,), None),
    )
    monkeypatch.setattr(elsewhere, "_opened", lambda *given: there)
    held = context.scorer(str(tmp_path), "config.ppo.reward_model").init()["variables"]
    expected = context.model.held(there.variables)
    jax.tree.map(np.testing.assert_array_equal, held, expected)
    assert held["params"]["embedding"]["tokens"].dtype == jnp.bfloat16
