"""Folders that a config names are looked into before anything runs."""

import pathlib

import jax
import numpy as np
import pytest
from command_line import QUICKSTART

from rlhf_jax import networks, rng
from rlhf_jax.build import experiment
from rlhf_jax.build.commands import opening
from rlhf_jax.build.configs import loading
from rlhf_jax.data import tokenizer as tokenizers
from rlhf_jax.errors import UserError
from rlhf_jax.networks import huggingface
from rlhf_jax.training.stopping import Stop

SIZES = dict(vocab_size=43, width=16, num_layers=2, num_heads=2, max_length=64)
SIZES["tied_embeddings"] = True


def configured(**settings):
    config = loading.load(f"{QUICKSTART}:tiny")
    loading.override(config, {k.replace("__", "."): v for k, v in settings.items()})
    return config


def directory(folder, scalar=False, **sizes):
    """A directory of weights that are all 0, with a tokenizer."""
    config = networks.presets.llama(**{**SIZES, **sizes})
    make = networks.scalar_model if scalar else networks.language_model
    shapes = jax.eval_shape(make(config).init, rng.root(0))
    variables = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    fields = {"pad_token_id": 0} if scalar else {}
    huggingface.save(folder, config, variables, scalar=scalar, extra_fields=fields)
    names = [f"t{i}" for i in range(SIZES["vocab_size"])]
    tokenizers.symbols(len(names), pad_token=0, end_token=1, names=names).save(folder)
    return str(folder)


def refused(**settings):
    with pytest.raises(UserError) as error, Stop() as stop:
        experiment.build(configured(**settings), pathlib.Path("unused"), stop)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_models_that_fit_are_taken(tmp_path):
    """Kills: a look that refuses what the stage would open."""
    policy, judge = directory(tmp_path / "p"), directory(tmp_path / "j", scalar=True)
    settings = dict(ppo__reference=policy, ppo__reward_model=judge)
    config = configured(label__policy=policy, ppo__value__head="copy", **settings)
    with Stop() as stop:
        experiment.build(config, tmp_path, stop)


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"num_heads": 4}, "num_heads is 4 and not 2"),
        ({"width": 32}, "width is 32 and not 16"),
        ({"vocab_size": 50}, "vocab_size is 50 and not 43"),
        ({"scalar": True}, "is a reward model"),
    ],
)
def test_a_directory_that_does_not_fit_is_named(tmp_path, sizes, said):
    folder = directory(tmp_path / "p", **sizes)
    message = refused(ppo__reference=folder)
    assert message.startswith(f"config.ppo.reference='{folder}' ") and said in message


def test_a_directory_without_all_weights_is_named(tmp_path):
    folder = directory(tmp_path / "p")
    (tmp_path / "p/model.safetensors").unlink()
    assert "no model.safetensors" in refused(label__policy=folder)
    message = refused(model__path=folder)
    assert message.startswith(f"config.model.path='{folder}': no model.safetensors")
    (tmp_path / "p/config.json").unlink()
    assert "neither a stage folder" in refused(label__policy=folder)


def test_a_directory_that_judges_has_a_head_and_a_tokenizer(tmp_path):
    folder = directory(tmp_path / "p")
    settings = {"ppo__value__init": "policy", "table__reward_model": folder}
    assert "no scalar head" in refused(ppo__reward_model=folder, **settings)
    judge = directory(tmp_path / "j", scalar=True)
    for file in (tmp_path / "j").glob("*token*"):
        file.unlink()
    message = refused(table__reward_model=f"mean:rm,{judge}")
    assert message.startswith("config.table.reward_model=") and "tokenizer" in message


def test_a_finished_run_is_opened_when_what_it_started_from_is_gone(tmp_path):
    folder = directory(tmp_path / "p")
    config = configured(model__path=folder).to_dict()
    (tmp_path / "p/model.safetensors").unlink()
    assert "sft" in opening.rebuild(tmp_path, config).policies
