"""Write directories that `transformers` opens."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util
from safetensors.numpy import save_file

from rlhf_jax.errors import UserError
from rlhf_jax.networks.config import TransformerConfig
from rlhf_jax.networks.huggingface.fields import FAMILIES
from rlhf_jax.networks.huggingface.formatting import config_to_huggingface
from rlhf_jax.networks.huggingface.reading import INDEX, SINGLE
from rlhf_jax.networks.huggingface.tensors import Tensor, layer_names, tensors


def save(
    directory: str | Path,
    config: TransformerConfig,
    variables: Any,
    *,
    scalar: bool = False,
    extra_fields: Mapping[str, Any] | None = None,
    max_shard_bytes: int = 5_000_000_000,
) -> None:
    """Write config.json and safetensors that `transformers` opens.

    `AutoModelForCausalLM` for a language model (a value head is left out),
    `AutoModelForSequenceClassification` with one label for a scalar model. Every array
    keeps its dtype.

    Args:
      directory: made where it does not exist.
      config: the architecture; its `family` decides the format.
      variables: with adapters merged.
      scalar: write the scalar head instead of the language head.
      extra_fields: further fields of config.json (numbers of special tokens).
      max_shard_bytes: more than this is split, with an index.

    Raises:
      UserError: adapters that are not merged, a missing array, a config that the
        family's format cannot say, or a directory that holds a checkpoint already.
    """
    if "lora" in variables:
        raise UserError(
            "the variables hold lora adapters; pass merge_lora(variables, config)"
        )
    directory = Path(directory)
    _refuse_occupied(directory)
    params: dict[str, Any] = traverse_util.flatten_dict(variables["params"], sep="/")
    table = tensors(config, scalar=scalar)
    lost = [path for tensor in table for path in tensor.paths if path not in params]
    if lost:
        raise UserError(f"the variables have no array {lost[0]!r}")
    raw = _config_json(config, scalar, str(params["embedding/tokens"].dtype))
    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**raw, **(extra_fields or {})}, indent=2, sort_keys=True)
    (directory / "config.json").write_text(text + "\n", encoding="utf-8")
    _write_shards(directory, _written(config, table, params), max_shard_bytes)


def _refuse_occupied(directory: Path) -> None:
    held = [n for n in ("config.json", SINGLE, INDEX) if (directory / n).exists()]
    if held:
        raise UserError(
            f"{directory} already holds {held[0]}; choose another directory"
        )


def _config_json(config: TransformerConfig, scalar: bool, dtype: str) -> dict[str, Any]:
    raw = config_to_huggingface(config)
    text = "Text" if config.family == "gemma3_text" and scalar else ""
    kind = "ForSequenceClassification" if scalar else "ForCausalLM"
    raw["architectures"] = [FAMILIES[config.family].architecture + text + kind]
    raw["torch_dtype"] = dtype
    raw |= dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    if scalar:
        raw |= {"id2label": {"0": "SCORE"}, "label2id": {"SCORE": 0}}
    return raw


def _written(
    config: TransformerConfig, table: list[Tensor], params: Mapping[str, Any]
) -> Iterator[tuple[str, np.ndarray]]:
    """Tensors in the order of the table, one line of it in memory at a time."""
    for tensor in table:
        parts = [np.asarray(params[path]) for path in tensor.paths]
        layered = "{i}" in tensor.name
        for i, name in enumerate(layer_names(tensor, config.num_layers)):
            one = tuple(part[i] for part in parts) if layered else tuple(parts)
            joined = np.ascontiguousarray(tensor.join(one))
            if joined.shape != tensor.shape:
                raise UserError(
                    f"{tensor.paths[0]} gives {name!r} the shape {joined.shape}, the "
                    f"config asks for {tensor.shape}"
                )
            yield name, joined


def _write_shards(
    directory: Path, named: Iterator[tuple[str, np.ndarray]], limit: int
) -> None:
    """One file, or numbered files and an index."""
    shards: list[list[str]] = []
    pending: dict[str, np.ndarray] = {}
    total = 0

    def flush() -> None:
        save_file(pending, _part(directory, len(shards)), metadata={"format": "pt"})
        shards.append(list(pending))
        pending.clear()

    for name, array in named:
        if pending and sum(x.nbytes for x in pending.values()) + array.nbytes > limit:
            flush()
        pending[name] = array
        total += array.nbytes
    flush()
    if len(shards) == 1:
        _part(directory, 0).rename(directory / SINGLE)
        return
    weight_map = {}
    for i, names in enumerate(shards):
        final = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        _part(directory, i).rename(directory / final)
        weight_map |= dict.fromkeys(names, final)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (directory / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _part(directory: Path, number: int) -> Path:
    return directory / f"part-{number}.safetensors"
