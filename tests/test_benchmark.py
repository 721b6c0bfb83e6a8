"""The benchmark: what it counts, what it refuses, what it writes."""

import importlib
import json
import pathlib
import re
import sys

import benchmark
import jax
import numpy as np
import pytest
from benchmarks import page, worker
from benchmarks.work import SIZES, Work

from rlhf_jax import networks, rng
from rlhf_jax.errors import UserError
from rlhf_jax.ops import products
from rlhf_jax.types import ModelInputs

ROOT = pathlib.Path(__file__).parents[1]
SMALLEST = Work(1, 8, 16, 2, 16, batch=2, prompt=2, response=2, epochs=1)


def test_operations_are_those_of_the_program():
    """Within a tenth of what XLA counts for a forward pass and its language head."""
    work = SIZES["small"]
    config = networks.presets.llama(
        vocab_size=work.vocab,
        width=work.width,
        mlp_width=work.mlp,
        num_layers=work.layers,
        num_heads=work.heads,
    )
    network = networks.language_model(config)
    ints = jax.ShapeDtypeStruct((work.batch, work.prompt + work.response), "int32")
    inputs = ModelInputs(ints, jax.ShapeDtypeStruct(ints.shape, bool), ints, ints)

    def forward(params, inputs):
        hidden = network.apply(params, inputs).hidden[:, -work.response :]
        return networks.logits(network, params, hidden)

    params = jax.eval_shape(network.init, rng.root(0))
    counted = jax.jit(forward).lower(params, inputs).cost_analysis()["flops"]
    ours = work.forward_flops + work.head_flops
    assert 0.9 < ours / counted < 1.1


def measured(kind, system, seconds, **parts):
    repetitions = [{"seconds": s, **parts} for s in seconds]
    versions = {"jax": "1.2"}
    return dict(
        size="tiny",
        kind=kind,
        system=system,
        versions=versions,
        repetitions=repetitions,
    )


@pytest.fixture
def found():
    """Ours takes 1, 2, 4 seconds where TRL takes 3, 4, 20: ratios 3, 2, 5."""
    phases = dict(rollout=0.5, score=0.1, learn=1.4)
    return {
        "machine": {"date": "2026-01-01", "cores": 2, "cpu": "abacus"},
        "results": [
            measured("ppo", "rlhf_jax", [1.0, 2.0, 4.0], **phases),
            measured("ppo", "trl", [3.0, 4.0, 20.0]),
            measured("sample", "rlhf_jax", [0.5]),
            measured("update", "rlhf_jax", [9.0], update=2.0, product_rate=1e10),
        ],
    }


def test_ratios_are_medians_over_rounds_not_ratios_of_medians(found):
    numbers = page.facts(found, "tiny")
    assert numbers["ratios"] == {"TRL": 3.0, "Tunix": None, "`generate`": None}
    assert numbers["tokens"] == 64 * 32 / 0.5
    assert numbers["phases"] == dict(rollout=0.25, score=0.05, learn=0.7)
    rate = SIZES["tiny"].update_flops / 2.0
    assert numbers["update_flops"] == rate and numbers["efficiency"] == rate / 1e10


def test_the_marked_part_of_the_readme_is_replaced(found, tmp_path):
    readme, plot = tmp_path / "README.md", tmp_path / "plot.svg"
    readme.write_text(f"before\n{page.MARKS[0]}\nold\n{page.MARKS[1]}\nafter\n")
    page.write(found, readme, plot)
    text = readme.read_text()
    assert text.startswith("before") and text.endswith("after\n") and "old" not in text
    assert "| iteration: times as fast as TRL | 3.00 |" in text
    assert "2026-01-01 on 2 CPU cores (abacus)" in text and "jax 1.2" in text
    assert plot.read_text().rstrip().endswith("</svg>")


def test_the_readme_has_the_marks():
    text = (ROOT / "README.md").read_text()
    assert text.count(page.MARKS[0]) == text.count(page.MARKS[1]) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--sizes=tiny,huge"], "no size 'huge'; choose from tiny, small, medium"),
        (["--systems=jax"], "no system 'jax'; choose from rlhf_jax, trl"),
        (["--systems=trl"], "trl cannot be timed: .venv-trl is missing; make it with"),
        (["--systems=rlhf_jax", "--rounds=0"], "--rounds=0 must be at least 1"),
        (["--systems=rlhf_jax", "--out=absent/b.json"], "cannot write absent/b.json"),
        (["--show=absent.json"], "cannot read measurements from absent.json"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    arguments, said, capsys, monkeypatch, tmp_path
):
    monkeypatch.setattr(benchmark, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert benchmark.main(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith(f"error: {said}")


def test_a_missing_peer_that_nobody_named_is_left_out(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(benchmark, "ROOT", tmp_path)
    assert list(benchmark.chosen_systems(None)) == ["rlhf_jax"]
    lines = capsys.readouterr().err.splitlines()
    assert [x.split(" is left out")[0] for x in lines] == [
        "notice: trl",
        "notice: tunix",
        "notice: transformers",
    ]


def test_a_worker_that_dies_is_told_with_its_last_words(tmp_path):
    script = tmp_path / "dying.py"
    script.write_text("print('{}', flush=True); input(); raise SystemExit('no memory')")
    with worker.Worker("peer", [sys.executable, script], ROOT) as one:
        with pytest.raises(UserError, match="worker of peer ended.*no memory"):
            one.repeat()


def test_this_project_is_measured(capsys, monkeypatch, tmp_path):
    """The whole path on the smallest work: every repetition is in the file."""
    monkeypatch.setitem(SIZES, "tiny", SMALLEST)
    out = tmp_path / "b.json"
    arguments = ["--sizes=tiny", "--systems=rlhf_jax", "--rounds=2", f"--out={out}"]
    assert benchmark.main(arguments) == 0
    results = json.loads(out.read_text())["results"]
    assert [r["kind"] for r in results] == ["ppo", "sample", "update"]
    assert all(len(r["repetitions"]) == 2 for r in results)
    assert all(r["versions"]["jax"] == jax.__version__ for r in results)
    parts = results[0]["repetitions"][0]
    assert 0 < parts["rollout"] + parts["score"] + parts["learn"] <= parts["seconds"]
    assert results[2]["repetitions"][0]["product_rate"] > 0
    assert "| sampled tokens/s |" in capsys.readouterr().out


def test_products_are_timed_on_their_own(capsys, monkeypatch):
    """Both ways of decoding multiply the same numbers; every line is a rate."""
    monkeypatch.syspath_prepend(pathlib.Path(benchmark.__file__).parent / "benchmarks")
    timed = importlib.import_module("products")
    monkeypatch.setattr(timed, "TRIES", 1)
    monkeypatch.setattr(timed, "STEPS", 2)
    monkeypatch.setattr(products, "LARGE", 1)
    results = []

    def seconds(function, *arrays):
        results.append(function(*arrays))
        return 1e-3

    monkeypatch.setattr(timed, "seconds", seconds)
    timed.decoding(SMALLEST)
    timed.update(SMALLEST)
    plain, turned, _, *updates = results
    np.testing.assert_allclose(plain, turned, rtol=1e-6)
    for to_kernel, from_copy in zip(updates[2::4], updates[3::4], strict=True):
        np.testing.assert_allclose(to_kernel, from_copy, rtol=1e-5, atol=1e-6)
    told = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in told] == [
        *["decode"] * 2,
        "the same kernels summed: 0.0 GB/s",
        *["update"] * 4,
    ]


def test_the_products_of_the_peers_are_the_same(capsys, monkeypatch):
    """Were all as fast, both scripts would tell the same rates."""
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(pathlib.Path(benchmark.__file__).parent / "benchmarks")
    told = {}
    for name in ("products", "torch_products"):
        timed = importlib.import_module(name)
        monkeypatch.setattr(timed, "seconds", lambda function, *arrays: 1e-9)
        timed.decoding(SMALLEST)
        timed.update(SMALLEST)
        lines = capsys.readouterr().out.splitlines()
        decoded = [re.search(r"(\d+) GFLOP", x)[1] for x in lines if "decode" in x]
        updates = [x.split(", from")[0] for x in lines if "update" in x]
        told[name] = decoded[0], updates
    assert told["products"] == told["torch_products"]
    assert "forward 0" not in str(told)
