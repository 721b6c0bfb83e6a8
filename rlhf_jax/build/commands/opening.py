"""Opening what a command calls a model: a stage of a run, or a Hugging Face directory.

A stage folder is `RUN/<stage>`; the run's `config.json` says how to build it again. A
directory without a tokenizer is read and written as token ids with spaces between.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections

from rlhf_jax import data, networks, rollout
from rlhf_jax.build import experiment
from rlhf_jax.build.configs import defaults
from rlhf_jax.build.configs.section import Section, nearest
from rlhf_jax.build.runs import models
from rlhf_jax.build.runs.context import Context
from rlhf_jax.build.tasks.token_ids import token_ids
from rlhf_jax.data import tokenizer as tokenizers
from rlhf_jax.errors import UserError
from rlhf_jax.networks import huggingface
from rlhf_jax.training import checkpoint
from rlhf_jax.training.stopping import Stop
from rlhf_jax.types import Network, Params, Scorer

REWARD = "reward.json"
"""Beside the weights of an exported reward model: the bias that a score gets."""

SCALAR = ("rm", "odin", "attributes", "average")
"""Kinds of stage that train a reward model."""

MODELS = ("sft", "ppo", "preference", "online_preference", *SCALAR)
"""Kinds of stage that train a model."""


class Opened(NamedTuple):
    """A model and what its inputs look like.

    Attributes:
      name: how messages call it.
      network: a language model, or a scalar model.
      variables: plain, adapters merged.
      scalar: whether it is a reward model.
      gain: what its raw scores are multiplied by.
      bias: what is added then.
      encoder: prompts and responses to ids, without limits on their length.
      stop_tokens: what ends a response.
      response_length: tokens that it was trained to respond with, or None.
      folded: gain that an export has multiplied the head by; 1 elsewhere.
    """

    name: str
    network: Network
    variables: Params
    scalar: bool
    gain: float
    bias: float
    encoder: data.Encoder
    stop_tokens: tuple[int, ...]
    response_length: int | None
    folded: float = 1.0

    @property
    def context_length(self) -> int:
        """Tokens that prompt and response may have together."""
        return self.network.config.max_length

    def scorer(self) -> Scorer:
        """The reward, gain and bias included."""
        return rollout.reward_model_scorer(
            self.network, self.variables, gain=self.gain, bias=self.bias
        )


def open_model(path: Path, mesh: Mapping[str, Any] | None = None) -> Opened:
    """Opens a stage folder or a Hugging Face directory.

    Args:
      path: the folder.
      mesh: `config.mesh` of who asks; None = one device.

    Raises:
      UserError: it is neither, or cannot be read.
    """
    _check_folder(path)
    config = path / "config.json"
    if config.is_file() and "stages" not in huggingface.read_json(config):
        return _open_directory(path)
    return open_stage(path, mesh)


def _check_folder(path: Path) -> None:
    if not path.is_dir():
        raise UserError(
            f"there is no folder '{path}'; name a stage folder such as RUN/ppo, or a"
            " Hugging Face directory"
        )


class Seen(NamedTuple):
    """What is known of a model before it is opened.

    Attributes:
      scalar: whether it is a reward model.
      config: the architecture; None of tables. Of a stage the vocabulary is 1.
      shapes: of the trained arrays of a stage, by path; none of a Hugging Face
        directory.
    """

    scalar: bool
    config: networks.TransformerConfig | None
    shapes: dict[str, tuple[int, ...]]


def look(path: Path) -> Seen:
    """What `open_model` would open, by names and shapes: no weight is read.

    Raises:
      UserError: it is no model, it is not trained yet, or files of it are missing.
    """
    _check_folder(path)
    file = path / "config.json"
    if file.is_file() and "stages" not in huggingface.read_json(file):
        config, scalar = huggingface.check(path)
        return Seen(scalar, config, {})
    run, stage, plain = _find(path)
    _check_stage(run, stage, plain)
    kind, section = plain[stage]["kind"], Section(plain.get("model", {}))
    if kind in SCALAR:
        _result(run, stage)
    if kind == "average":
        return [look(run / member) for member in plain[stage]["members"]][0]
    group = "reward" if kind in SCALAR else "policy"
    stored = checkpoint.contents(checkpoint.resolve(run / stage))["params"][group]
    shapes = {name: shape for name, shape, _ in models.parameter_table(stored)}
    tables = models.is_tabular(section)
    config = None if tables else models.model(section, 1, 1, "cpu").config
    return Seen(kind in SCALAR, config, shapes)


def open_stage(path: Path, mesh: Mapping[str, Any] | None = None) -> Opened:
    """Opens the trained model of a stage folder `RUN/<stage>`; see `open_model`.

    Raises:
      UserError: no run, no such stage, a stage that trains no model or has not yet.
    """
    _check_folder(path)
    run, stage, config = _find(path)
    _check_stage(run, stage, config)
    context = rebuild(run, config, mesh)
    task = context.task
    scalar = stage in context.rewards
    result = _result(run, stage) if scalar else {}
    return Opened(
        name=str(path),
        network=context.model.scalar() if scalar else context.model.language(),
        variables=context.policies[stage](),
        scalar=scalar,
        gain=result.get("gain", 1.0),
        bias=result.get("bias", 0.0),
        encoder=dataclasses.replace(
            task.encoder, prompt_limit=None, response_limit=None
        ),
        stop_tokens=(task.tokenizer.end_token,),
        response_length=task.response_length,
    )


def rebuild(
    run: Path, config: dict[str, Any], mesh: Mapping[str, Any] | None = None
) -> Context:
    """The context of a run that was made elsewhere, perhaps: on the mesh of who asks,
    and without the user's scorer, which only training calls.

    Keys that change no number are as by default: the run may be too old to have them,
    and what it was logged with need not be here.
    """
    base = defaults.base().to_dict()
    plain = {**config, "scorer": None}
    plain |= {name: base[name] for name in defaults.NUMBERLESS}
    plain["mesh"] = dict(mesh or base["mesh"])
    return experiment.read(ml_collections.ConfigDict(plain), run, Stop())[0]


def _find(path: Path) -> tuple[Path, str, dict[str, Any]]:
    """The run above a stage folder, the stage's name and the run's config."""
    path = path.absolute()
    for run in (path, *path.parents):
        file = run / "config.json"
        if not file.is_file():
            continue
        config = huggingface.read_json(file)
        if not isinstance(config.get("stages"), list):
            break
        return run, path.relative_to(run).as_posix(), config
    raise UserError(
        f"{path} is neither a stage folder of a run nor a Hugging Face directory: no"
        " config.json of either is in it or above it"
    )


def _check_stage(run: Path, stage: str, config: dict[str, Any]) -> None:
    kinds = {
        name: config[name].get("kind")
        for name in config["stages"]
        if isinstance(config.get(name), dict)
    }
    known = [name for name, kind in kinds.items() if kind in MODELS]
    folders = ", ".join(str(run / name) for name in known)
    if stage == ".":
        raise UserError(f"{run} is a whole run; name a stage of it: {folders}")
    if stage not in kinds:
        raise UserError(f"{run} has no stage '{stage}'{nearest(stage, known)}")
    if stage not in known:
        raise UserError(
            f"stage '{stage}' of {run} is of kind '{kinds[stage]}' and trains no model;"
            f" name one of: {folders}"
        )


def _result(run: Path, stage: str) -> dict[str, Any]:
    """Gain and bias of a reward model, from its `done.json`."""
    path = run / stage / "done.json"
    if not path.is_file():
        raise UserError(
            f"stage '{stage}' of {run} is not finished (no done.json), so its gain and"
            " bias are not known yet; run `rlhf-jax train` on this workdir again"
        )
    result = huggingface.read_json(path).get("result")
    if not isinstance(result, dict):
        raise UserError(f"{path} holds no result; it was not written by rlhf-jax")
    return result


def _open_directory(path: Path) -> Opened:
    raw = huggingface.read_json(path / "config.json")
    scalar = huggingface.is_scalar(raw)
    config, variables = huggingface.load(path)
    make = networks.scalar_model if scalar else networks.language_model
    encoder = data.Encoder(tokenizer=_tokenizer(path, raw, config.vocab_size))
    return Opened(
        name=str(path),
        network=make(config),
        variables=variables,
        scalar=scalar,
        gain=1.0,
        bias=_stored(path, "bias", 0.0) if scalar else 0.0,
        encoder=encoder,
        stop_tokens=_stops(raw, encoder.tokenizer),
        response_length=None,
        folded=(_stored(path, "gain", 1.0) or 1.0) if scalar else 1.0,
    )


def _stored(path: Path, name: str, default: float) -> float:
    """A number of `reward.json`; an older one has no gain."""
    if not (path / REWARD).is_file():
        return default
    found = huggingface.read_json(path / REWARD)
    value = found.get(name, default if name == "gain" else None)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{path / REWARD}: field '{name}' is {value!r}, not a number")
    return float(value)


def _stops(raw: dict[str, Any], tokenizer: data.Tokenizer) -> tuple[int, ...]:
    """What ends a text: by config.json, else by the tokenizer."""
    ends = raw.get("eos_token_id")
    ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
    if not ends and tokenizer.end_token >= 0:
        ends = [tokenizer.end_token]
    return tuple(int(token) for token in ends)


TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")


def _tokenizer(path: Path, raw: dict[str, Any], vocab_size: int) -> data.Tokenizer:
    if any((path / name).is_file() for name in TOKENIZER_FILES):
        return tokenizers.load(path)
    ends = raw.get("eos_token_id")
    return token_ids(vocab_size, ends if isinstance(ends, int) else -1)
