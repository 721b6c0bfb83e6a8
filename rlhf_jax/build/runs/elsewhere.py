"""Models of other runs and Hugging Face directories, where a stage names a folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rlhf_jax.errors import UserError
from rlhf_jax.types import Params, Scorer


def is_folder(source: str) -> bool:
    """Whether a name is a path to a folder, and no name of a stage of this run."""
    return "/" in source and Path(source).is_dir()


def policy(source: str, path: str, mesh: Mapping[str, Any]) -> Params:
    """Plain variables of a stage folder `RUN/<stage>` or a Hugging Face directory.

    Args:
      source: the folder.
      path: key that names it, for messages.
      mesh: `config.mesh` of this run.

    Raises:
      UserError: it holds no model.
    """
    return _opened(source, path, mesh).variables


def scorer(
    source: str,
    path: str,
    mesh: Mapping[str, Any],
    held: Callable[[Params], Params],
) -> Scorer:
    """The reward model of a stage folder of another run, with its gain and bias.

    Args:
      source: the folder.
      path: key that names it, for messages.
      mesh: `config.mesh` of this run.
      held: puts its weights where they belong.

    Raises:
      UserError: it holds no reward model.
    """
    opened = _opened(source, path, mesh)
    if not opened.scalar:
        raise UserError(f"{path}='{source}' is no reward model: it has no scalar head")
    return opened._replace(variables=held(opened.variables)).scorer()


def look(source: str, path: str) -> Any:
    """What is known of the model in a folder before its weights are read, an
    `opening.Seen`.

    Args:
      source: the folder.
      path: key that names it, for messages.

    Raises:
      UserError: it holds no model, or not a whole one.
    """
    from rlhf_jax.build.commands import opening  # opening builds runs, runs look there

    try:
        return opening.look(Path(source))
    except UserError as error:
        raise UserError(f"{path}='{source}': {error}") from None


def _opened(source: str, path: str, mesh: Mapping[str, Any]):  # noqa: ANN202 - Opened, imported lazily
    from rlhf_jax.build.commands import opening  # opening builds runs, runs open it

    try:
        return opening.open_model(Path(source), mesh)
    except UserError as error:
        raise UserError(f"{path}='{source}': {error}") from None
