"""A workdir that cannot be continued stays as it is, and what is wrong is named."""

import json
import shutil

import pytest
from command_line import SMALL, TINY, contents

DUMP = "--config.debug.dump_step=1"


@pytest.fixture
def copy(finished_run, tmp_path):
    """A run of one's own to spoil."""
    return shutil.copytree(finished_run, tmp_path / "run")


CHANGES = [
    ("ppo.kl_coef=0.2", "ppo.kl_coef was 0.05, is now 0.2"),
    ("sft.steps=3", "sft.steps was 2, is now 3"),
    ("seed=1", "seed was 0, is now 1"),
    ("seeds.label=5", "seeds.label was None, is now 5"),
    ("model.width=32", "model.width was 16, is now 32"),
    ("stages=sft,label,rm", "choose another --workdir"),
]


@pytest.mark.parametrize(("setting", "said"), CHANGES)
def test_another_value_of_a_key_that_changes_numbers_is_refused(
    refused, finished_run, setting, said
):
    before = contents(finished_run)
    arguments = [TINY, *SMALL, DUMP, f"--config.{setting}"]
    message = refused("train", *arguments, f"--workdir={finished_run}")
    assert said in message
    assert contents(finished_run) == before


def test_a_key_that_changes_no_numbers_may_change(command, copy):
    config = json.loads((copy / "config.json").read_text())
    setting = "--config.checkpoint.keep_last=3"
    code, out, _ = command("train", TINY, *SMALL, DUMP, setting, f"--workdir={copy}")
    assert code == 0 and "report" in out
    config["checkpoint"]["keep_last"] = 3
    assert json.loads((copy / "config.json").read_text()) == config


DAMAGE = [
    ("config.json", "{broken", "config.json"),
    ("config.json", "[]", "config.json"),
    ("config.json", '{"stages": ["sft", "label", "rm", "ppo"]}', "no section 'sft'"),
    ("config.json", None, "no config.json"),
    ("rm/done.json", "{broken", "done.json"),
    ("rm/done.json", "{}", "no field 'settings'"),
]


@pytest.mark.parametrize(("name", "text", "said"), DAMAGE)
def test_a_damaged_record_is_named(refused, copy, name, text, said):
    (copy / name).unlink()
    if text is not None:
        (copy / name).write_text(text)
    before = contents(copy)
    assert said in refused("train", TINY, *SMALL, DUMP, f"--workdir={copy}")
    assert contents(copy) == before


def spoil(step, how):
    if how == "emptied":
        shutil.rmtree(step)
        step.mkdir()
    elif how == "no metadata":
        (step / "_CHECKPOINT_METADATA").unlink()
    elif how == "cut metadata":
        (step / "_CHECKPOINT_METADATA").write_text("{")
    elif how == "no parameters":
        shutil.rmtree(step / "params")
    else:
        for path in (step / "params").rglob("*"):
            if path.is_file():
                path.write_bytes(b"xx")


HOW = ["emptied", "no metadata", "cut metadata", "no parameters", "garbage"]


@pytest.mark.parametrize("how", HOW)
def test_a_damaged_checkpoint_is_named(refused, copy, how):
    step = copy / "ppo" / "checkpoints" / "2"
    spoil(step, how)
    (copy / "ppo" / "done.json").unlink()
    before = contents(step)
    message = refused("train", TINY, *SMALL, DUMP, f"--workdir={copy}")
    assert str(step) in message
    assert contents(step) == before
    if how != "cut metadata":  # the record is gone, the weights are there
        message = refused("generate", copy / "ppo", "--prompt=w1")
        assert str(step) in message
