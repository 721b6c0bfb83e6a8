"""Studies: shared stages and programs, plans that hold, cells that fail."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import jax
import ml_collections
import pytest

from rlhf_jax import training
from rlhf_jax.build import experiment
from rlhf_jax.build.commands import ablating, study_names, studying
from rlhf_jax.build.configs import exact_worlds, loading, sections
from rlhf_jax.errors import UserError
from rlhf_jax.studies import compare
from rlhf_jax.training.stopping import Stop

STUDY = dict(
    name="small",
    question="Which way does it go?",
    stage="ppo",
    grid="leave_one_out",
    terms=(
        ("KL penalty", (("ppo.kl_coef", 0.0),)),
        ("whitening", (("ppo.estimator", ("monte_carlo",)),)),
    ),
    seeds=2,
    seed_kinds=("init", "data", "sampling", "label"),
    metrics=(
        dict(name="j", path="j", direction="up"),
        dict(name="kl", path="kl", direction="down", unit="nats"),
    ),
    curves=("eval/gold", "eval/kl"),
    gold="eval/gold",
    kl="eval/kl",
    confidence=0.95,
    test="sign_flip",
)


def small(**study):
    """REINFORCE++ in E64, a few steps of few rollouts."""
    config = exact_worlds.e64(
        target="tilt",
        beta=0.3,
        kl_coef=0.3,
        rewards=("score_at_last_token", "kl_penalty"),
        estimator=("monte_carlo", "whitened"),
        monte_carlo=dict(discount=1.0),
        steps=3,
        batch_size=8,
        eval_prompts=8,
        eval_every=2,
        shown_samples=0,
        term_gradients=dict(every=0, cosines=False),
    )
    config.study = ml_collections.ConfigDict({**STUDY, **study})
    return config


def results(folder):
    return (folder / "ablation.json").read_bytes()


def test_a_study_runs_and_says_what_came_out(tmp_path, capsys):
    """Cells times seeds, one page; a second call finds everything done. A curve that
    only a run can know is told of where no run has it."""
    config = small(curves=("eval/gold", "eval/kl", "policy/nothing"))
    assert ablating.ablate(config, tmp_path) == 0
    _require_known_names(config, 0, tmp_path / "runs/all-terms/seed-0")
    first, (shown, told) = results(tmp_path), capsys.readouterr()
    assert "warning: Not drawn: policy/nothing over training: the runs have no" in told
    assert "6/6" in shown and "exploratory" in shown
    for name in ("plan.json", "ablation.csv", "ablation.md", "ablation.tex"):
        assert (tmp_path / name).is_file()
    page = (tmp_path / "report.html").read_text()
    assert "without KL penalty" in page
    assert not re.search(r"(src|href|url)\s*[=(]\s*[\"']?https?:", page)
    assert ablating.ablate(config, tmp_path) == 0
    assert results(tmp_path) == first
    with pytest.raises(UserError, match="another plan"):
        ablating.ablate(small(seeds=3), tmp_path)


def test_a_second_seed_compiles_nothing(tmp_path):
    """n seeds cost one compilation: weights, keys and coefficients are arguments, so
    the cells of the next seed, and a cell that changes a coefficient, compile no
    learner anew."""
    study = studying.read(small())
    runner = ablating._Runner(study, tmp_path, experiment.Programs())
    baseline, without, other = study.plan.cells
    for cell in (baseline, without, other):
        runner.run(cell, 0)
    with training.count_compiles() as compiles:
        for cell in (baseline, without, other):
            runner.run(cell, 1)
    # Left over are eight small ones per run (initial tables, gold, the enumeration);
    # the sampler, the learner and the evaluation are not among them.
    assert int(compiles) <= 8 * 3


def test_shared_stages_are_trained_once_per_seed(tmp_path):
    """Fine-tuning that no cell affects is one folder, which the cells point to."""
    config = exact_worlds.arith(
        estimator=("leave_one_out",),
        steps=2,
        batch_size=4,
        eval_prompts=8,
        eval_every=0,
        shown_samples=0,
        term_gradients=dict(every=0, cosines=False),
    )
    config.task.update(dict(prompts=32, heldout=16))
    config.model.update(dict(width=16, num_layers=1, num_heads=2))
    config.sft.update(dict(steps=2, batch_size=4))
    config.table.update(dict(prompts=8, samples=1, best_of=1, batch_size=8))
    factors = (("ppo.epochs", (1, 2)), ("table.temperature", (1.0, 0.5)))
    metrics = (dict(name="gold", path="table.ppo.gold", direction="up"),)
    config.study = ml_collections.ConfigDict(
        {
            **{k: v for k, v in STUDY.items() if k != "terms"},
            "grid": "one_at_a_time",
            "factors": factors,
            "metrics": metrics,
            "seeds": (3,),
        }
    )
    study = studying.read(config)
    assert study.shared == ("sft",)
    assert [cell.name for cell in study.plan.others] == ["epochs=2", "temperature=0.5"]
    assert ablating.ablate(config, tmp_path) == 0
    _require_known_names(config, 3, tmp_path / "runs/baseline/seed-3")
    links = sorted(tmp_path.glob("runs/*/seed-3/sft"))
    assert len(links) == 3
    assert {link.resolve() for link in links} == {tmp_path / "shared/seed-3/sft"}


def _require_known_names(config, seed, folder):
    """What is known of a run before it is what it has written."""
    study = studying.read(config)
    with Stop() as stop:
        plain = studying.configured(study.config, {}, study.plan, seed)
        context, _ = experiment.build(plain, folder, stop)
    known = study_names.summary(plain.to_dict(), context)
    found = compare.leaves(json.loads((folder / "summary.json").read_text()))
    for path, what in compare.leaves(known).items():
        assert what is study_names.OPEN or isinstance(found[path], float | int), path
    for path, value in found.items():
        if isinstance(value, float | int):
            assert study_names._unfit_summary(path, known) is None, path


def test_a_diverged_cell_is_recorded_and_stops_nothing(tmp_path):
    terms = (*STUDY["terms"], ("sanity", (("ppo.optimizer.learning_rate", 1e30),)))
    assert ablating.ablate(small(terms=terms), tmp_path) == 0
    found = json.loads(results(tmp_path))
    assert "diverged" in json.dumps(found)


@pytest.mark.parametrize(
    "study, message",
    [
        (dict(terms=(("x", (("ppo.kl_coeff", 0.0),)),)), "kl_coef"),
        (dict(terms=(("x", (("pppo.kl_coef", 0.0),)),)), "'pppo'"),
        (dict(terms=(("x", (("ppo.kl_coef", "a"),)),)), "cell 'without x'"),
        (dict(stage="pbo"), "did you mean 'ppo'"),
        (dict(grid="leave_two_out"), "leave_one_out"),
        (dict(seed_kinds=("weights",)), "seed_kinds"),
        (dict(metrics=(dict(nome="j"),)), "did you mean 'name'"),
        (dict(extra=1), "extra is read by nothing"),
    ],
)
def test_bad_studies_are_refused_before_anything_runs(study, message, tmp_path):
    with pytest.raises(UserError, match=message):
        ablating.ablate(small(**study), tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_a_config_without_a_study_is_refused():
    config = loading.load("experiments/quickstart.py:tiny")
    with pytest.raises(UserError, match="config.study is missing"):
        studying.read(config)


def test_parts_that_a_change_drops_leave_no_keys_behind():
    section = small().ppo
    with section.unlocked():
        section.estimator = ("leave_one_out",)
    assert "monte_carlo" not in sections.listed(section)


def test_a_study_killed_three_times_ends_the_same(tmp_path):
    """SIGKILL at random moments; the same command then runs what is missing."""
    config = tmp_path / "study.py"
    here = os.path.dirname(__file__)
    config.write_text(
        f"import sys\nsys.path.insert(0, {here!r})\n"
        "from test_ablating import small\n\n\ndef get_config():\n    return small()\n"
    )

    def command(folder):
        return [
            *(sys.executable, "-m", "rlhf_jax", "ablate"),
            f"--config={config}",
            f"--workdir={folder}",
        ]

    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "programs"),
    }
    options = dict(env=environment, stdout=subprocess.DEVNULL)
    subprocess.run(command(tmp_path / "whole"), check=True, **options)
    dice = random.Random(0)
    for _ in range(3):
        child = subprocess.Popen(command(tmp_path / "killed"), **options)
        wanted = dice.randint(1, 5)
        done = 0
        while child.poll() is None and done < wanted:
            done = len(list((tmp_path / "killed" / "results").rglob("seed-*.json")))
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
        child.wait()
    subprocess.run(command(tmp_path / "killed"), check=True, **options)
    assert results(tmp_path / "killed") == results(tmp_path / "whole")


def test_packed_seeds_end_as_single_ones(tmp_path):
    """vmap over seeds: the same numbers up to round-off, also where one diverges."""
    config = small(seeds=3)
    assert ablating.ablate(config, tmp_path / "single") == 0
    assert ablating.ablate(config, tmp_path / "packed", packed=True) == 0
    single, packed = (
        json.loads(results(tmp_path / name)) for name in ("single", "packed")
    )
    for a, b in zip(_numbers(single), _numbers(packed), strict=True):
        assert a == pytest.approx(b, rel=1e-3, abs=1e-4)


def _numbers(tree):
    if isinstance(tree, dict):
        return [x for key in sorted(tree) for x in _numbers(tree[key])]
    if isinstance(tree, list):
        return [x for item in tree for x in _numbers(item)]
    return [tree] if isinstance(tree, float) else []


def test_a_diverged_seed_of_a_pack_is_frozen_alone(tmp_path, monkeypatch):
    """One seed meets a NaN; it is recorded, the others end as without it."""
    from rlhf_jax.build.stages import ppo

    start = ppo._PPO.start

    def poisoned(self):
        base, groups = start(self)
        if self.context.seeds.sampling == 1:
            groups = jax.tree.map(lambda x: x.at[0].set(jax.numpy.nan), groups)
        return base, groups

    config = small(seeds=3, terms=STUDY["terms"][:1])
    assert ablating.ablate(config, tmp_path / "whole", packed=True) == 0
    monkeypatch.setattr(ppo._PPO, "start", poisoned)
    assert ablating.ablate(config, tmp_path / "poisoned", packed=True) == 0
    for seed, same in ((0, True), (1, False), (2, True)):
        found = [
            json.loads(path.read_text())
            for name in ("whole", "poisoned")
            for path in sorted((tmp_path / name).glob(f"results/*/seed-{seed}.json"))
        ]
        half = len(found) // 2
        for a, b in zip(found[:half], found[half:], strict=True):
            assert bool(b.get("diverged")) != same
            if same:
                assert a["metrics"] == pytest.approx(b["metrics"], rel=1e-4)


def test_packed_seeds_score_with_their_own_reward_models():
    """Two seeds with two frozen scorers score differently inside one program."""
    from rlhf_jax.algorithms import packing

    def take(state, frozen, batch):
        return state + 1, {"score": frozen * batch}

    found = packing.packed(take)(((0, 2.0, 3.0), (5, 7.0, 3.0)))
    assert [int(state) for state, _ in found] == [1, 6]
    assert [float(m["score"]) for _, m in found] == [6.0, 21.0]
