"""The measurements on one accelerator: what they count, and that one failure is one."""

import json
import sys

import accelerator
import jax
import jax.numpy as jnp
import pytest

TOY = accelerator.ACCELERATED["toy"]


def test_a_token_reads_the_weights_and_the_cache_once():
    """Width 8, gated MLP of 16, 16 tokens; a cache of 2 rows, 2 + 3/2 columns."""
    weights = 4 * 8 * 8 + 3 * 8 * 16 + 8 * 16
    cache = 2 * 2 * 3.5 * 8  # keys and values
    assert accelerator.weights(TOY) == weights
    assert accelerator.decode_bytes(TOY, 2) == 2 * (weights + cache)


def test_repetitions_that_compile_are_left_out():
    calls = []
    found = accelerator.median_seconds(lambda: calls.append(1) or jnp.zeros(()), 3)
    assert (len(found), len(calls)) == (3, 3 + accelerator.WARMUP)


def test_rates_are_of_products_and_of_bytes_both_ways(monkeypatch):
    monkeypatch.setattr(accelerator, "median_seconds", lambda once, rounds: [0.5])
    rates = accelerator.device_rates(1, side=4, elements=8)
    assert rates["product_flops"] == 2 * 4**3 / 0.5
    assert rates["copy_bytes"] == 2 * 8 * 4 / 0.5
    assert rates["peak_flops"] is None  # of a CPU no maker's page is known


def test_decoding_is_what_comes_after_the_first_token(monkeypatch):
    """0.4 s for one token and 0.8 s for three: 0.2 s each, against a limit of 0.1 s."""
    answers = iter([[0.4], [0.8]])
    monkeypatch.setattr(accelerator, "median_seconds", lambda *_: next(answers))
    monkeypatch.setattr(accelerator.ours, "learner", lambda *a, **k: (Fake, Fake))
    rates = {"copy_bytes": accelerator.decode_bytes(TOY, 2) / 0.1}
    found = accelerator.decode(TOY, {"dtype": jnp.bfloat16}, 1, rates)
    assert found["seconds_per_token"] == pytest.approx(0.2)
    assert found["tokens_per_second"] == pytest.approx(TOY.batch / 0.2)
    assert found["of_bandwidth"] == pytest.approx(0.5)


class Fake:
    """What `decode` takes from a learner."""

    parts = type("Parts", (), {"sampler": None})
    reference = None


def test_what_does_not_fit_leaves_the_others(monkeypatch, tmp_path):
    def too_large(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 90 GiB\nmore")

    monkeypatch.setattr(accelerator, "update", too_large)
    for name in ("decode", "iteration", "packed"):
        monkeypatch.setattr(accelerator, name, lambda *_: {"ratio": 2.0})
    out = tmp_path / "out.json"
    asked = ["accelerator.py", "--size=toy", "--rounds=1", f"--out={out}"]
    monkeypatch.setattr(sys, "argv", asked)
    accelerator.main()
    found = json.loads(out.read_text())
    assert found["update"] == {"failed": "RESOURCE_EXHAUSTED: 90 GiB"}
    assert found["packed"] == {"ratio": 2.0}
    assert found["device"] and found["date"] and found["versions"]["jax"]


def test_a_place_that_cannot_be_written_is_said_first(monkeypatch, tmp_path):
    out = tmp_path / "missing" / "out.json"
    monkeypatch.setattr(sys, "argv", ["accelerator.py", f"--out={out}"])
    monkeypatch.setattr(accelerator, "measure", lambda *_: pytest.fail("measured"))
    with pytest.raises(SystemExit, match="error: .*missing"):
        accelerator.main()
