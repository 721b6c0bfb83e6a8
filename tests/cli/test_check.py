"""`check`: the whole experiment from shapes alone."""

import os
import re
import subprocess
import sys
import time

import pytest
from command_line import TINY, contents

from rlhf_jax.build.commands import checking

EIGHT = "--xla_force_host_platform_device_count=8"
ROWS = "--config.rm.batch_size=8"
SEVEN_BILLION = (
    "--config.model.width=4096",
    "--config.model.num_layers=32",
    "--config.model.num_heads=32",
    "--config.model.mlp_width=11008",
)


@pytest.fixture
def text(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = command("check", TINY, "--config.ppo.epochs=3")
    assert code == 0 and contents(tmp_path) == {}
    return out


def section(text, title):
    return next(part for part in text.split("\n\n") if part.startswith(title))


def test_the_resolved_config_is_printed(text):
    assert re.search(r"\n  ppo.epochs +3\n", section(text, "config"))
    assert re.search(r"\n  model.lora.targets +\('query', 'value'\)\n", text)


def test_the_batch_arithmetic_is_printed(text):
    ppo = section(text, "stage ppo")
    assert "8 prompts x 1 samples = 8 rollouts" in ppo
    assert re.search(r"optimizer steps +12\n", ppo)
    assert re.search(r"episodes +32$", ppo)
    assert "16 + 8 held-out prompts x 4" in section(text, "stage label")


def test_the_parameters_add_up(text):
    vocab, width, hidden = 43, 16, 64
    layer = 4 * width * width + 3 * width * hidden + 2 * width
    total = vocab * width + 2 * layer + width
    found = section(text, "parameters")
    assert f"language model: {total:,} parameters" in found
    assert f"rm/reward: {total + width:,} trained parameters" in found
    assert f"ppo/value: {total + width:,} trained parameters" in found
    assert re.search(r"layers/mlp/up/kernel +2 x 16 x 64 +float32", found)


def test_the_memory_adds_up(text):
    rows = [line.split() for line in section(text, "memory").splitlines()[2:]]
    of = {row[0]: row[1:] for row in rows}
    assert of["sft"][0:2] == of["sft"][2:4]  # gradients are as large as parameters
    assert of["label"][:2] == ["0", "B"]
    rows, columns, heads_width, layers = 8, 16 + 10 - 1, 16, 2
    cache = layers * 2 * rows * columns * heads_width * 4
    books = rows * columns * (1 + 4 + 4)
    angles = 2 * columns * heads_width // 2 // 2 * 4  # two heads, half of a head turns
    assert checking.units(cache + books + angles) in " ".join(of["ppo"])


def test_seven_billion_parameters_need_no_memory_and_no_time(command):
    began = time.process_time()
    code, out, _ = command("check", TINY, *SEVEN_BILLION)
    assert code == 0
    assert re.search(r"language model: 6,\d{3},\d{3},\d{3} parameters, 24\.", out)
    assert time.process_time() - began < 20


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1,023 B"), (1536, "1.5 KiB"), (3 << 30, "3.0 GiB")],
)
def test_bytes_are_shown_with_units(size, text):
    assert checking.units(size) == text


def test_frozen_models_of_two_bytes_halve_what_stages_hold_of_them(command):
    def frozen(*settings):
        code, out, _ = command("check", TINY, *settings)
        assert code == 0
        rows = [line.split() for line in section(out, "memory").splitlines()[2:]]
        return {row[0]: float(row[7]) for row in rows}["ppo"]

    whole = frozen()
    assert 0.5 * whole < frozen("--config.model.frozen_dtype=bfloat16") < 0.56 * whole


def test_bytes_of_each_device_of_a_mesh():
    """A mesh that splits variables divides them; one that splits rows does not."""

    def trained(*mesh):
        done = subprocess.run(
            [sys.executable, "-m", "rlhf_jax", "check", TINY, ROWS, *mesh],
            env=os.environ | {"XLA_FLAGS": EIGHT, "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        count = re.search(r"language model: ([\d,]+) parameters", done.stdout)[1]
        table = section(done.stdout, "memory of each of 8 devices").splitlines()
        (row,) = [line.split() for line in table if line.split()[0] == "sft"]
        return 4 * int(count.replace(",", "")), " ".join(row[1:3])

    total, alone = trained("--config.mesh.data=8")
    assert alone == checking.units(total)
    total, shared = trained("--config.mesh.fsdp=8")
    assert shared == checking.units(total / 8)


def test_a_topology_stands_for_devices_that_are_not_here(command, text):
    code, out, _ = command("check", TINY, "--config.ppo.epochs=3", "--topology=cpu:1")
    assert code == 0 and out == text
    code, _, err = command("check", TINY, "--topology=abacus:8")
    assert code == 2 and "abacus" in err
