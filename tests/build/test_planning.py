"""`plan`: programs of an experiment, compiled from shapes alone."""

import importlib.util
import json
import math
import types

import jax
import pytest

from rlhf_jax.build import experiment
from rlhf_jax.build.configs import loading, sections
from rlhf_jax.build.plans import plan_advice, planning
from rlhf_jax.build.runs.context import Context
from rlhf_jax.errors import UserError
from rlhf_jax.planning import compiling, devices, topology
from rlhf_jax.training.stopping import Stop

pytestmark = pytest.mark.optimized

SMALL = {
    "model.num_layers": "1",
    "stages": "sft,label,rm,ppo",
    "ppo.shown_samples": "0",
    "ppo.epochs": "2",
    "ppo.minibatches": "2",
    "sft.microbatches": "2",
}


def made(folder, memory=None, say=lambda line: None, **settings):
    config = loading.load("experiments/quickstart.py:tiny")
    loading.override(config, SMALL | settings)
    found = topology("cpu:1")
    if memory is not None:
        found = found._replace(device=found.device._replace(memory=memory))
    return planning.plan(config, "quickstart", found, folder, say=say)


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """The plan of the quickstart's tiny form, its file, and what was said."""
    folder, said = tmp_path_factory.mktemp("plan"), []
    result = made(folder, say=said.append)
    return result, json.loads((folder / "plan.json").read_text()), said


def program(plan, name):
    return next(one for one in plan["programs"] if one["name"] == name)


def test_every_program_of_the_experiment_is_planned(plan):
    result, written, said = plan
    names = [one["name"] for one in result["programs"]]
    rollouts = ["ppo/rollout", "ppo/score", "ppo/learn", "ppo/evaluation"]
    assert names == ["sft/update", "label/rollout", "rm/update", *rollouts]
    assert written == json.loads(json.dumps(result))
    assert said[0] == "compiling sft/update ..." and len(said) == 2 * len(names)
    assert result["stages_without_programs"] == []
    assert set(program(result, "ppo/rollout")["phases"]) >= {"prefill", "decode"}
    learn = set(program(result, "ppo/learn")["phases"])
    assert learn >= {"update", "experience", "reference", "values"}


def test_operations_are_those_of_the_formula(plan):
    """2 N a token forward and 6 N in training, attention included, within 5 %.

    Of the small batches of decoding the compiler may turn products into sums, which
    are no products: there the whole program is compared.
    """
    for one in plan[0]["programs"]:
        assert one["total_flops"] == pytest.approx(one["model_flops"], rel=0.05), one


def test_stages_that_draw_and_that_rate_are_planned(tmp_path):
    """A sampler's rows are all responses of a batch; regression is 6 N a token."""
    config = loading.load("experiments/bond.py:tiny")
    config.stages, config.model.num_layers = ("sft", "label", "rm", "best", "rated"), 1
    with config.unlocked():
        config.rated = sections.attributes(
            1e-3, attributes=("clear", "short"), weights=(1.0, 1.0), batch_size=4
        )
    result = planning.plan(config, "bond", topology("cpu:1"), tmp_path, say=print)
    assert tuple(result["stages_without_programs"]) == ()
    for name in ("label/rollout", "best/rollout", "best/score", "rated/update"):
        one = program(result, name)
        assert one["total_flops"] == pytest.approx(one["model_flops"], rel=0.05), one


def test_loops_of_a_plan_are_bounded(plan):
    for one in plan[0]["programs"]:
        assert not one["unbounded_loops"] and not one["kernels_without_estimate"]


def test_memory_is_what_lies_there(plan):
    """Arguments of fine-tuning: weights, two moments and the batch; each array begins
    at a multiple of 64 bytes."""
    vocab, width, hidden, rows, length = 43, 16, 64, 4, 26
    weights = vocab * width + 4 * width**2 + 3 * width * hidden + 3 * width
    state = 3 * 4 * weights
    batch = rows * length * (4 * 4 + 4 + 2)
    found = program(plan[0], "sft/update")
    assert found["argument_bytes"] == pytest.approx(state + batch, rel=0.05)
    parts = ("argument_bytes", "output_bytes", "temp_bytes", "code_bytes")
    assert found["peak_bytes"] == sum(found[key] for key in parts)
    assert found["beside_bytes"] == 0


def test_a_rollout_stands_beside_the_other_models_of_its_stage(plan):
    """Reference, reward model, critic and the moments stay where they are."""
    rollout, learn = (program(plan[0], f"ppo/{x}") for x in ("rollout", "learn"))
    state = learn["argument_bytes"] + learn["beside_bytes"]
    assert rollout["beside_bytes"] + rollout["argument_bytes"] == pytest.approx(
        state, rel=0.05
    )
    stage = plan[0]["stages"][-1]
    fullest = max(
        one["resident_bytes"] for one in plan[0]["programs"] if "ppo" in one["name"]
    )
    assert stage["resident_bytes"] == fullest
    assert stage["margin_bytes"] == plan[0]["hbm_bytes"] - fullest


def test_an_evaluation_takes_memory_and_none_of_a_steps_time(plan):
    """Its programs stand beside the state, the reference and the reward model."""
    evaluation, learn = (program(plan[0], f"ppo/{x}") for x in ("evaluation", "learn"))
    steps = [one for one in plan[0]["programs"] if one["each_step"]]
    assert [one["name"] for one in plan[0]["programs"] if one not in steps] == [
        "ppo/evaluation"
    ]
    stage = plan[0]["stages"][-1]
    ppo = [one["seconds"] for one in steps if one["name"].startswith("ppo/")]
    assert stage["seconds_per_step"] == pytest.approx(sum(ppo))
    models = learn["argument_bytes"] + learn["beside_bytes"]
    held = evaluation["argument_bytes"] + evaluation["beside_bytes"]
    assert held == pytest.approx(models, rel=0.05)


def test_an_evaluation_of_more_rows_than_a_step_decides_what_fits(tmp_path):
    """Then it is also sampled and scored in other programs."""
    result = made(tmp_path, **{"task.heldout": "1024", "ppo.eval_prompts": "1024"})
    names = {one["name"]: one for one in result["programs"]}
    rollout = names["ppo/evaluation rollout"]
    assert {"ppo/evaluation score", "ppo/evaluation"} <= set(names)
    assert rollout["total_flops"] == pytest.approx(rollout["model_flops"], rel=0.05)
    assert rollout["temp_bytes"] > 50 * names["ppo/rollout"]["temp_bytes"]
    fullest = max(result["programs"], key=lambda one: one["resident_bytes"])["name"]
    assert fullest.startswith("ppo/evaluation")


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        ({}, lambda state: ()),
        ({"ppo.shown_samples": "1"}, lambda state: state),
        ({"ppo.term_gradients.every": "5"}, lambda state: [state.params] * 3),
        (
            {
                "ppo.shown_samples": "1",
                "ppo.term_gradients.every": "5",
                "ppo.optimizer.name": "sgd",
            },
            lambda state: [state.params] * 3,
        ),
    ],
)
def test_an_update_leaves_room_for_steps_that_are_looked_into(tmp_path, asked, kept):
    """A step that is told keeps the state it starts from; gradients of its three
    terms are there together."""
    config = loading.load("experiments/quickstart.py:tiny")
    loading.override(config, SMALL | asked)
    _, stages = experiment.build(config, tmp_path, Stop())
    learn = {one.name: one for one in stages[-1].plan().programs}["learn"]
    scorers, _, found = learn.beside
    assert compiling.per_device(found) == compiling.per_device(kept(learn.arguments[0]))
    assert compiling.per_device(scorers) > 0


def test_the_table_shows_programs_phases_and_stages(plan):
    text = plan_advice.table(plan[0])
    for word in ("ppo/learn", "decode", "tokens/s", "to spare", "label"):
        assert word in text, word


def test_what_does_not_fit_is_said_with_how_much_and_what_to_try(tmp_path):
    memory = 300_000
    result = made(tmp_path, memory=memory, stages="sft")
    found = program(result, "sft/update")
    assert not result["fits"]
    assert result["margin_bytes"] == memory - found["peak_bytes"]
    assert "--config.sft.microbatches=4" in result["suggestion"]
    last = plan_advice.table(result).splitlines()[-1]
    assert last.startswith("does not fit") and "--config.model.remat=full" in last


@pytest.mark.parametrize(
    ("name", "gathered", "first"),
    [
        ("rollout", (), "--config.mesh.rules=rollout_embed=fsdp"),
        ("rollout", ("fsdp",), "--config.ppo.batch_size=32"),
        ("learn", (), "--config.ppo.microbatches=2"),
        ("evaluation rollout", (), "--config.ppo.eval_prompts=40"),
    ],
)
def test_a_rollout_that_does_not_fit_may_leave_its_weights_split(name, gathered, first):
    row = {"name": f"ppo/{name}", "resident_bytes": 3, "temp_bytes": 2}
    over = {"fullest_stage": "ppo", "margin_bytes": -1, "programs": [row]}
    split = {"embed": ("fsdp",), "rollout_embed": gathered}
    where = types.SimpleNamespace(row_shards=8, split=split.__getitem__)
    config = {
        "ppo": {"batch_size": 64, "microbatches": 1, "eval_prompts": 80},
        "model": {"remat": "full", "scan_layers": True},
    }
    context = Context(**dict.fromkeys(Context._fields) | {"placement": where})
    assert f"; try {first}" in plan_advice.suggestion(over, config, context)


@pytest.mark.parametrize("waiting", [False, True])
def test_a_state_that_fills_all_devices_may_wait_on_the_host(waiting):
    row = {"name": "sft/update", "resident_bytes": 3, "temp_bytes": 0}
    over = {"fullest_stage": "sft", "margin_bytes": -1, "programs": [row]}
    over |= {"mesh": {"fsdp": 4, "tensor": 2}, "devices": 8, "hbm_bytes": 2}
    where = types.SimpleNamespace(host_moments=waiting)
    context = Context(**dict.fromkeys(Context._fields) | {"placement": where})
    said = plan_advice.suggestion(over, {}, context)
    assert ("; try --config.mesh.host_moments=True or " in said) == (not waiting)
    assert "about 12 devices" in said


def test_a_program_that_the_compiler_refuses_is_told_by_its_message():
    wanted = compiling._wanted
    line = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 21.50G of"
    assert wanted(f"{line} 15.75G hbm. Exceeded hbm capacity by 5.75G.") == int(
        21.5 * 2**30
    )
    line = "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for"
    text = f"{line} HLO temporaries (256.00G) exceeds available HBM (15.75G)."
    assert wanted(text) == 256 * 2**30
    assert wanted("INVALID_ARGUMENT: Used 3G") is None


def test_a_fault_of_the_compiler_names_the_program_in_one_line(tmp_path, monkeypatch):
    def broken(*arguments, **options):
        raise jax.errors.JaxRuntimeError("INTERNAL: RET_CHECK failure\n (file.cc:1)")

    monkeypatch.setattr(jax.stages.Lowered, "compile", broken)
    with pytest.raises(
        UserError, match=r"^sft/update: .*RET_CHECK failure \(file"
    ) as e:
        made(tmp_path)
    assert "\n" not in str(e.value) and not (tmp_path / "plan.json").exists()


def test_arrays_of_a_mesh_take_their_share():
    one = jax.ShapeDtypeStruct((8, 4), jax.numpy.bfloat16)
    key = jax.eval_shape(lambda: jax.random.key(0))
    assert compiling.per_device([one, key, None]) == 64 + key.dtype.itemsize


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("v5e", "write a kind and a shape"),
        ("v5e:4by4", "write a kind and a shape"),
        ("b200:8", "kind 'b200' is not one of cpu, v2"),
        ("cpu:0", "at least one device"),
        ("cpu:4096", "4096 devices are planned for"),
    ],
)
def test_a_topology_that_is_none_is_refused(name, said):
    with pytest.raises(UserError, match=said):
        topology(name)


def test_slices_are_counted():
    with pytest.raises(UserError, match="at least one slice"):
        topology("cpu:1", 0)


def test_without_libtpu_it_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"-m pip install 'libtpu==0\.0\.\d+\.\*'"):
        topology("v5e:4x4")


def test_devices_have_a_source_and_plausible_peaks():
    for device in devices.DEVICES.values():
        assert device.source
        assert 50 < device.flops / device.bandwidth < 700
        assert device.network < device.link < device.bandwidth
        assert math.log2(device.memory) == pytest.approx(35, abs=3)
