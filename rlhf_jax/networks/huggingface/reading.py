"""Read directories of the Hugging Face format, failing closed."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from flax import traverse_util

from rlhf_jax.errors import UserError
from rlhf_jax.networks.config import TransformerConfig
from rlhf_jax.networks.huggingface.parsing import config_from_huggingface
from rlhf_jax.networks.huggingface.tensors import (
    ALIASES,
    ANY_BUFFER,
    BUFFERS,
    PREFIXES,
    Tensor,
    layer_names,
    tensors,
)

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


class _Stored(NamedTuple):
    """Where a tensor lies: an open file and the name that it has there."""

    file: Any
    name: str


def load(
    directory: str | Path,
    *,
    dtype: Any = jnp.float32,
    shardings: Any = None,
    ignore_fields: tuple[str, ...] = (),
) -> tuple[TransformerConfig, Any]:
    """Read a checkpoint, tensor by tensor, into the dtype and sharding asked for.

    A directory whose `architectures` is `...ForSequenceClassification` is a scalar
    model with a head; any other is a language model.

    Args:
      directory: holds config.json and model.safetensors, or shards with an index.
      dtype: of all parameters; None keeps what is stored.
      shardings: a tree like the variables, of `jax.sharding.Sharding`, or None.
      ignore_fields: see `config_from_huggingface`.

    Returns:
      The architecture and `{"params": ...}`.

    Raises:
      UserError: a missing file, an unsupported configuration, or a tensor that is
        unknown, missing, duplicate or of the wrong shape, by name.
    """
    directory = Path(directory)
    raw = read_json(directory / "config.json")
    config = config_from_huggingface(raw, ignore_fields=ignore_fields)
    table = tensors(config, scalar=is_scalar(raw))
    placed = {} if shardings is None else traverse_util.flatten_dict(shardings, sep="/")
    params: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        stored, tied = _locate(stack, directory, config, table)
        for head in tied:
            _check_tied(directory, head, stored[table[0].name])
        for tensor in table:
            for path, array in _read(tensor, config.num_layers, stored, dtype):
                sharding = placed.get("params/" + path)
                params[path] = jax.device_put(array, sharding)
    return config, {"params": traverse_util.unflatten_dict(params, sep="/")}


def check(directory: str | Path) -> tuple[TransformerConfig, bool]:
    """What `load` would refuse of a directory, by names and shapes: no weight is read.

    Returns:
      The architecture, and whether it is a scalar model.

    Raises:
      UserError: see `load`; whether tied embeddings are equal is seen there alone.
    """
    directory = Path(directory)
    raw = read_json(directory / "config.json")
    config, scalar = config_from_huggingface(raw), is_scalar(raw)
    with contextlib.ExitStack() as stack:
        _locate(stack, directory, config, tensors(config, scalar=scalar))
    return config, scalar


def is_scalar(raw: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of a model with one label per sequence.

    Raises:
      UserError: it is a classifier of more than one label.
    """
    names = raw.get("architectures") or []
    if not any(name.endswith("ForSequenceClassification") for name in names):
        return False
    labels = raw.get("num_labels", len(raw.get("id2label") or "01"))
    if labels != 1:
        raise UserError(f"config.json: a scalar model has 1 label, this has {labels}")
    return True


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
      UserError: no such file, or not an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no {path.name} in {path.parent}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} does not hold a JSON object")
    return value


def _locate(
    stack: contextlib.ExitStack,
    directory: Path,
    config: TransformerConfig,
    table: list[Tensor],
) -> tuple[dict[str, _Stored], list[_Stored]]:
    """Find and check every tensor before any is read; heads that shall be tied, too."""
    expected = dict(_expected(table, config.num_layers))
    found: dict[str, _Stored] = {}
    tied: list[_Stored] = []
    for path in _files(directory):
        file = _open(stack, path)
        for name in file.keys():
            known = _canonical(name, config.family, expected)
            if known is None and name == "lm_head.weight" and config.tied_embeddings:
                tied.append(_Stored(file, name))
            elif known is None and not _is_buffer(name, config.family):
                raise UserError(f"{path}: unknown tensor {name!r}")
            elif known is not None and known in found:
                raise UserError(f"{path}: duplicate tensor {name!r}")
            elif known is not None:
                _check_shape(path, file, name, expected[known])
                found[known] = _Stored(file, name)
    missing = [name for name in expected if name not in found]
    if missing:
        raise UserError(
            f"{directory}: missing tensor {missing[0]!r} ({len(missing)} of "
            f"{len(expected)} are)"
        )
    return found, tied


def _expected(
    table: list[Tensor], num_layers: int
) -> Iterator[tuple[str, tuple[int, ...]]]:
    for tensor in table:
        for name in layer_names(tensor, num_layers):
            yield name, tensor.shape


def _canonical(name: str, family: str, expected: Mapping[str, Any]) -> str | None:
    """The name in our table, of a tensor that may lack the prefix; None if none."""
    name = ALIASES.get(family, {}).get(name, name)
    full = PREFIXES.get(family, "model.") + name
    return next((known for known in (name, full) if known in expected), None)


def _is_buffer(name: str, family: str) -> bool:
    pattern = BUFFERS.get(family, ANY_BUFFER)
    return re.search(pattern, name) is not None


def _check_shape(path: Path, file: Any, name: str, shape: tuple[int, ...]) -> None:
    actual = tuple(file.get_slice(name).get_shape())
    if actual != shape:
        raise UserError(
            f"{path}: tensor {name!r} has shape {actual}, the config asks for {shape}"
        )


def _check_tied(directory: Path, head: _Stored, tokens: _Stored) -> None:
    one, other = head.file.get_tensor(head.name), tokens.file.get_tensor(tokens.name)
    if one.shape != other.shape or not np.array_equal(one, other):
        raise UserError(
            f"{directory}: {head.name!r} differs from {tokens.name!r} although "
            "config.json says tie_word_embeddings=true"
        )


def _files(directory: Path) -> list[Path]:
    """The one file, or the shards that the index names."""
    single, index = directory / SINGLE, directory / INDEX
    if single.exists() and index.exists():
        raise UserError(f"{directory} holds both {SINGLE} and {INDEX}; remove one")
    if single.exists():
        return [single]
    if not index.exists():
        raise UserError(
            f"no {SINGLE} or {INDEX} in {directory}; write the checkpoint with "
            "save_pretrained(..., safe_serialization=True)"
        )
    names = sorted(set(read_json(index).get("weight_map", {}).values()))
    absent = [name for name in names if not (directory / name).exists()]
    if absent or not names:
        raise UserError(f"{index} names {absent or 'no files'}, which is not there")
    return [directory / name for name in names]


def _open(stack: contextlib.ExitStack, path: Path) -> Any:
    try:
        return stack.enter_context(safetensors.safe_open(path, framework="numpy"))
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"cannot read {path}: {error}") from None


def _read(
    tensor: Tensor, num_layers: int, stored: Mapping[str, _Stored], dtype: Any
) -> Iterator[tuple[str, np.ndarray]]:
    """Our arrays of one line of the table, stacked over the layers."""
    stacks: list[np.ndarray] = []
    names = layer_names(tensor, num_layers)
    for i, name in enumerate(names):
        place = stored[name]
        parts = tensor.split(place.file.get_tensor(place.name))
        if not stacks:
            stacks = [
                np.empty(
                    (len(names), *part.shape), part.dtype if dtype is None else dtype
                )
                for part in parts
            ]
        for whole, part in zip(stacks, parts, strict=True):
            whole[i] = part
    for path, whole in zip(tensor.paths, stacks, strict=True):
        yield path, whole if "{i}" in tensor.name else whole[0]
