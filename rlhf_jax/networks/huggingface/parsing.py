"""config.json to `TransformerConfig`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from rlhf_jax.errors import UserError
from rlhf_jax.networks.config import RopeScaling, TransformerConfig
from rlhf_jax.networks.huggingface.fields import (
    ACTIVATIONS,
    FAMILIES,
    IGNORED,
    Family,
)
from rlhf_jax.networks.presets import PRESETS, alternating_layers, gemma_scale

GEMMAS = ("gemma2", "gemma3_text")
LOCAL, GLOBAL = "sliding_attention", "full_attention"


_TYPES = {
    field.name: {
        "int": (int,),
        "int | None": (int, type(None)),
        "bool": (bool,),
        "Number": (int, float),
        "Number | None": (int, float, type(None)),
    }.get(str(field.type), ())
    for field in dataclasses.fields(TransformerConfig)
}
"""Types of JSON values that a field may have."""


class _Reader:
    """Fields of one config.json, remembering which were read."""

    def __init__(self, raw: Mapping[str, Any], family: Family):
        self.raw, self.family, self.read = raw, family, set[str]()

    def get(self, name: str, default: Any = None) -> Any:
        """The field, or what `transformers` assumes where it is absent."""
        self.read.add(name)
        return self.raw.get(name, self.family.absent.get(name, default))

    def require(self, name: str) -> Any:
        """The field, which has to be there or have an assumed value."""
        if name not in self.raw and name not in self.family.absent:
            raise UserError(f"config.json has no field {name!r}")
        value = self.get(name)
        kinds = _TYPES[self.family.fields[name]]
        if type(value) not in kinds:
            allowed = " or ".join(kind.__name__ for kind in kinds)
            raise UserError(f"config.json: {name}={value!r} is not of type {allowed}")
        return value

    def check_rest(self, ignore: tuple[str, ...]) -> None:
        """Refuse fixed fields of another value, and fields that nobody knows."""
        for name, values in self.family.fixed.items():
            self.read.add(name)
            if name in self.raw and self.raw[name] not in values:
                raise UserError(
                    f"config.json: {name}={self.raw[name]!r} is not supported "
                    f"(supported: {', '.join(map(repr, values))})"
                )
        known = self.read | IGNORED | set(ignore)
        unknown = [k for k, v in self.raw.items() if k not in known and v is not None]
        if unknown:
            raise UserError(
                f"config.json: unknown field {unknown[0]!r}={self.raw[unknown[0]]!r} "
                "may change what the model computes; if it does not, pass "
                f"ignore_fields=({unknown[0]!r},)"
            )


def config_from_huggingface(
    raw: Mapping[str, Any], *, ignore_fields: tuple[str, ...] = ()
) -> TransformerConfig:
    """The architecture that a config.json describes.

    Args:
      raw: the parsed config.json, of transformers 4 or 5.
      ignore_fields: further fields that are known not to change the numbers.

    Raises:
      UserError: an unsupported family, a field that is missing, unknown, or of a value
        that this package does not compute with; each by name.
    """
    name = raw.get("model_type")
    if name not in FAMILIES:
        hint = " (of Gemma 3 only text models)" if name == "gemma3" else ""
        raise UserError(
            f"config.json: model_type={name!r} is not supported{hint}; supported: "
            f"{', '.join(FAMILIES)}"
        )
    reader = _Reader(raw, FAMILIES[name])
    fields = {ours: reader.require(hf) for hf, ours in reader.family.fields.items()}
    fields["activation"] = _activation(reader)
    if reader.family.rope:
        fields |= _rope(reader, name)
    fields |= _biases(reader, name) | _windows(reader, name, fields["num_layers"])
    if name in GEMMAS:
        fields["attention_scale"] = gemma_scale(reader.get("query_pre_attn_scalar"))
    reader.check_rest(ignore_fields)
    config = PRESETS[name](**fields)
    return dataclasses.replace(
        config,
        num_kv_heads=config.kv_heads,
        head_dim=config.head_width,
        mlp_width=config.hidden_width,
    )


def _activation(reader: _Reader) -> str:
    name = reader.family.activation
    value = reader.get(name)
    if value is None:
        value = reader.family.absent[name]
    if value not in ACTIVATIONS:
        raise UserError(
            f"config.json: {name}={value!r} is not supported; supported: "
            f"{', '.join(ACTIVATIONS)}"
        )
    return ACTIVATIONS[value]


def _biases(reader: _Reader, name: str) -> dict[str, Any]:
    if name in ("gpt2", "mistral", "qwen2"):
        return {}
    bias = bool(reader.get("attention_bias"))
    return {"qkv_bias": bias, "output_bias": bias}


def _rope(reader: _Reader, name: str) -> dict[str, Any]:
    """Both spellings: `rope_theta`, `rope_scaling` and, since 5, `rope_parameters`."""
    neox = name == "gpt_neox"
    new = reader.get("rope_parameters") or {}
    old = reader.get("rope_scaling") or {}
    base = "rotary_emb_base" if neox else "rope_theta"
    theta = reader.get(base, 1e6 if name == "gemma3_text" else 1e4)
    fields: dict[str, Any] = {}
    if name == "gemma3_text":
        local = _checked(new.get(LOCAL, {}))
        if _scaling(local) is not None:
            raise UserError(
                f"config.json: rope_parameters.{LOCAL} is scaled: {local!r} is not "
                "supported; only global layers may be"
            )
        own = reader.get("rope_local_base_freq", 1e4)
        fields["rope_local_theta"] = float(local.get("rope_theta", own))
        new = new.get(GLOBAL, {})
    if neox:
        share = new.get("partial_rotary_factor", reader.get("rotary_pct", 0.25))
        fields["rope_fraction"] = float(share)
    elif _checked({**old, **new}).get("partial_rotary_factor", 1.0) != 1.0:
        raise UserError("config.json: partial_rotary_factor is not supported here")
    fields["rope_theta"] = float(new.get("rope_theta", theta))
    fields["rope_scaling"] = _scaling(_checked({**old, **new}))
    return fields


_ROPE_KEYS = frozenset(
    "rope_type type factor low_freq_factor high_freq_factor partial_rotary_factor "
    "original_max_position_embeddings rope_theta".split()
)


def _checked(rope: dict[str, Any]) -> dict[str, Any]:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "linear", "llama3"):
        raise UserError(
            f"config.json: rope scaling {kind!r} is not supported; supported: default, "
            "linear, llama3"
        )
    unknown = sorted(set(rope) - _ROPE_KEYS)
    if unknown:
        raise UserError(f"config.json: unknown rope field {unknown[0]!r}")
    return rope


def _scaling(rope: dict[str, Any]) -> RopeScaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    try:
        if kind == "linear":
            return RopeScaling(kind="linear", factor=float(rope["factor"]))
        return RopeScaling(
            kind="llama3",
            factor=float(rope["factor"]),
            low_freq_factor=float(rope["low_freq_factor"]),
            high_freq_factor=float(rope["high_freq_factor"]),
            original_max_length=int(rope["original_max_position_embeddings"]),
        )
    except KeyError as error:
        raise UserError(f"config.json: {kind} rope scaling lacks {error}") from None


def _windows(reader: _Reader, name: str, num_layers: int) -> dict[str, Any]:
    """Which layers look through a window, as each family says it."""
    if name in ("llama", "gpt2", "gpt_neox"):
        return {}
    window = reader.get("sliding_window")
    if name == "mistral":
        return {"window": window}
    kinds = reader.get("layer_types")
    if name in GEMMAS:
        period = reader.get("_sliding_window_pattern", 2 if name == "gemma2" else 6)
        period = reader.get("sliding_window_pattern", period)
        local = alternating_layers(num_layers, period)
    else:
        first = reader.get("max_window_layers", 28)
        local = tuple(i >= first for i in range(num_layers))
        if not reader.get("use_sliding_window", False):
            window = None
    if kinds is not None:
        unknown = [kind for kind in kinds if kind not in (LOCAL, GLOBAL)]
        if unknown:
            raise UserError(f"config.json: layer type {unknown[0]!r} is not supported")
        local = tuple(kind == LOCAL for kind in kinds)
    if window is None or not any(local):
        return {"window": None, "window_layers": None}
    return {"window": window, "window_layers": local}
