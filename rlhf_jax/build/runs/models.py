"""From `config.model` to networks and their variables."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlhf_jax import networks, rollout
from rlhf_jax.build.configs.section import Section
from rlhf_jax.data import tokenizer as tokenizers
from rlhf_jax.errors import UserError
from rlhf_jax.networks import huggingface, kernels
from rlhf_jax.placement import Placement
from rlhf_jax.types import Array, Network, Params, Scorer

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


class Model(NamedTuple):
    """The architecture that all networks of a run share.

    Attributes:
      config: of the plain network, without adapters.
      lora: adapters of the trained networks, or None to train every parameter.
      options: keywords of `language_model` and `scalar_model` (dtypes, scan, remat).
      path: Hugging Face directory of the first weights, or None.
      frozen_dtype: of references and reward models while another model trains; None
        leaves them as they are.
    """

    config: networks.TransformerConfig
    lora: networks.LoRA | None
    options: dict[str, Any]
    path: Path | None
    frozen_dtype: Any

    def language(self, *, adapters: bool = False, value_head: bool = False) -> Network:
        """A language model; with adapters where asked for and configured."""
        return networks.language_model(
            self._adapted(adapters), value_head=value_head, **self.options
        )

    def scalar(self, *, head: str = "normal", adapters: bool = False) -> Network:
        """A reward model or value function; `head` is `zero` or `normal`."""
        return networks.scalar_model(
            self._adapted(adapters), head_init=HEADS[head](), **self.options
        )

    def first_weights(self, key: Array, placement: Placement) -> Params:
        """The checkpoint's weights, or random ones, where they belong."""
        network, dtype = self.language(), self.options["param_dtype"]
        if self.path is None:
            return network.init(key)
        where = None
        if placement.spread:
            where = placement.shardings(jax.eval_shape(network.init, key))
        return huggingface.load(self.path, dtype=dtype, shardings=where)[1]

    def held(self, variables: Params) -> Params:
        """Variables of a model that is asked and not trained, in `frozen_dtype`.

        Those that networks read in float32 whatever their dtype (norms, the scalar
        head) stay as they are: where `dtype` is bfloat16, no number changes.
        """
        dtype = self.frozen_dtype
        if dtype is None:
            return variables

        def one(path: Any, leaf: Array) -> Array:
            names = {str(getattr(step, "key", step)) for step in path}
            return leaf if names & _WIDE else leaf.astype(dtype)

        return jax.tree_util.tree_map_with_path(one, variables)

    def _adapted(self, adapters: bool) -> networks.TransformerConfig:
        lora = self.lora if adapters else None
        return dataclasses.replace(self.config, lora=lora)


_WIDE = {"scale", "bias", "head"}
"""Names of variables that enter sums in float32."""


HEADS: dict[str, Callable[[], Any]] = {
    "zero": networks.zeros,
    "normal": networks.normal,
}


TABULAR = "tabular"
"""The family of tables over all prefixes of an enumerable world."""


def is_tabular(section: Section) -> bool:
    """Whether `config.model` asks for tables, which have no other keys."""
    return section.values().get("family") == TABULAR


def model(
    section: Section, vocab_size: int | None, length: int, platform: str
) -> Model:
    """Reads `config.model`.

    Args:
      section: the section.
      vocab_size: of the tokenizer; None takes the checkpoint's.
      length: tokens of the longest prompt with the longest response.
      platform: of the devices that it runs on, which choose the attention kernel.

    Raises:
      UserError: a checkpoint that cannot be read, or that is too short or too small.
    """
    path = section.optional("path", section.str)
    dtype = DTYPES[section.choice("dtype", DTYPES)]
    attention = section.choice("attention", kernels.CHOICES)
    options = {
        "dtype": dtype,
        "param_dtype": DTYPES[section.choice("param_dtype", DTYPES)],
        "scan_layers": section.bool("scan_layers"),
        "remat": section.choice("remat", networks.REMAT),
        "attention": kernels.for_platform(attention, platform, dtype),
    }
    frozen = section.optional("frozen_dtype", lambda key: section.choice(key, DTYPES))
    family = section.choice("family", networks.presets.PRESETS)
    given = {
        "width": section.int("width", 1),
        "num_layers": section.int("num_layers", 1),
        "num_heads": section.int("num_heads", 1),
        "num_kv_heads": section.optional("num_kv_heads", section.int),
        "mlp_width": section.optional("mlp_width", section.int),
        "tied_embeddings": section.bool("tied_embeddings"),
    }
    head = section.optional("head_dim", section.int)
    if head is not None:  # else the family's own
        given["head_dim"] = head
    given["vocab_size"] = _vocab_size(section, vocab_size, path)
    lora = _lora(section.section("lora"))
    if path is None:
        config = networks.presets.PRESETS[family](max_length=length, **given)
        return Model(config, lora, options, None, DTYPES.get(frozen))
    raw = huggingface.read_json(Path(path) / "config.json")
    config = huggingface.config_from_huggingface(raw)
    _fits(path, config, vocab_size, length)
    return Model(config, lora, options, Path(path), DTYPES.get(frozen))


def _vocab_size(section: Section, tokens: int | None, path: str | None) -> int | None:
    """Rows of the embedding: as given, at least the tokenizer's, else as many."""
    given = section.optional("vocab_size", section.int)
    if path is None and given is None and tokens is None:
        raise UserError("config.model.path is needed: this task has no tokenizer")
    if path is None and given is not None and given < (tokens or 0):
        raise UserError(
            f"{section.path}.vocab_size={given} is less than the {tokens} tokens of the"
            " tokenizer; leave it at None to follow the tokenizer"
        )
    return tokens if given is None else given


def _fits(
    path: str, config: networks.TransformerConfig, vocab_size: int | None, length: int
) -> None:
    if vocab_size is not None and config.vocab_size < vocab_size:
        raise UserError(
            f"config.model.path={path} has {config.vocab_size} tokens, the tokenizer"
            f" has {vocab_size}; use the tokenizer that belongs to the model"
        )
    if config.max_length < length:
        raise UserError(
            f"prompt and response together may have {length} tokens, but"
            f" config.model.path={path} holds {config.max_length}; shorten"
            " config.task.prompt_length or config.task.response_length"
        )


def _lora(section: Section) -> networks.LoRA | None:
    rank, alpha = section.int("rank", 0), section.float("alpha")
    targets = section.names("targets")
    return networks.LoRA(rank=rank, alpha=alpha, targets=targets) if rank else None


def trainable(variables: Params, lora: networks.LoRA | None) -> tuple[Params, Params]:
    """Splits variables into (frozen base, trainable part): all trains without LoRA."""
    if lora is None:
        return {}, variables
    base = {name: tree for name, tree in variables.items() if name != "lora"}
    return base, {"lora": variables["lora"]}


def parameter_table(variables: Any) -> list[tuple[str, tuple[int, ...], str]]:
    """Path, shape and dtype of every array of an (abstract) variables tree."""
    flat, _ = jax.tree_util.tree_flatten_with_path(variables)
    return [
        (jax.tree_util.keystr(path, simple=True, separator="/"), x.shape, str(x.dtype))
        for path, x in flat
    ]


def foreign_scorer(path: Path, task: Any, held: Callable[[Params], Params]) -> Scorer:
    """A reward model from a Hugging Face directory, on text by its own tokenizer.

    Args:
      path: directory with config.json, weights and tokenizer.
      task: its tokenizer decodes the responses that are scored.
      held: puts the weights where they belong.
    """
    config, variables = huggingface.load(path)
    network = networks.scalar_model(config)
    if "head" not in variables["params"]:
        raise UserError(f"{path} is no reward model: it has no scalar head")
    tokenizer = tokenizers.load(path)
    return rollout.foreign_reward_model_scorer(
        network,
        held(variables),
        task.tokenizer.decode,
        lambda prompt, response: tokenizer.encode(prompt + response),
        max_length=min(config.max_length, 2 * (task.length + 1)),
    )
