"""Writing a trained stage as a directory of the Hugging Face format."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from rlhf_jax.build.commands import opening
from rlhf_jax.build.commands.opening import Opened
from rlhf_jax.data import Tokenizer
from rlhf_jax.errors import UserError
from rlhf_jax.networks import huggingface


def export(stage: Path, out: Path) -> str:
    """Writes the model of a stage as a directory that `transformers` opens.

    Config, weights and tokenizer of a policy, or of a reward model with its gain
    folded into the head and its bias in `reward.json` beside it (with the gain, so that
    `rm-report` can tell the scores that were trained). The directory appears
    whole or not at all.

    `transformers` takes the score at the last token that is no padding. Where padding
    is the end token, that would be the one before the end: the directory of a reward
    model then names no padding, so that sequences are scored one by one, and a batch
    is refused there instead of scored wrong.

    Returns:
      What was written, in words.

    Raises:
      UserError: `out` holds something, or `stage` is no stage that trains a model.
    """
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise UserError(f"{out} is a file, not a folder; choose another place")
    if out.is_dir() and any(out.iterdir()):
        raise UserError(
            f"{out} is not empty; choose another folder, nothing is overwritten"
        )
    opened = opening.open_stage(stage)
    part = out.with_name(out.name + ".part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        _write(part, opened)
        os.replace(part, out)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return f"{out}: open it with {_opener(opened)}"


def _opener(opened: Opened) -> str:
    if not opened.scalar:
        return "AutoModelForCausalLM.from_pretrained"
    single = _pads_with_end(opened.encoder.tokenizer)
    return "AutoModelForSequenceClassification.from_pretrained" + (
        "; one sequence at a time, for the tokenizer has no padding of its own" * single
    )


def _pads_with_end(tokenizer: Tokenizer) -> bool:
    return tokenizer.pad_token == tokenizer.end_token


def _write(folder: Path, opened: Opened) -> None:
    tokenizer, variables = opened.encoder.tokenizer, opened.variables
    special: dict[str, Any] = {"eos_token_id": tokenizer.end_token}
    if not (opened.scalar and _pads_with_end(tokenizer)):
        special["pad_token_id"] = tokenizer.pad_token
    if tokenizer.start_token is not None:
        special["bos_token_id"] = tokenizer.start_token
    if opened.scalar:
        head = variables["params"]["head"]
        kernel = head["kernel"]
        folded = (kernel.astype(jnp.float32) * opened.gain).astype(kernel.dtype)
        params = {**variables["params"], "head": {**head, "kernel": folded}}
        variables = {**variables, "params": params}
        text = json.dumps({"bias": opened.bias, "gain": opened.gain}, indent=2)
        (folder / opening.REWARD).write_text(text + "\n")
    huggingface.save(
        folder,
        opened.network.config,
        variables,
        scalar=opened.scalar,
        extra_fields=special,
    )
    tokenizer.save(folder)
