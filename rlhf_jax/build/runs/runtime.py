"""What the command line sets up before jax is used."""

from __future__ import annotations

import glob
import os
import re
import warnings
from pathlib import Path
from typing import Any

from rlhf_jax.errors import UserError


def prepare() -> None:
    """Quiet logs, offline hubs, and compiled programs kept between processes.

    `JAX_COMPILATION_CACHE_DIR` chooses the folder; empty switches the cache off.

    Raises:
      UserError: jax finds no device, for instance because of `JAX_PLATFORMS`.
    """
    _quiet()
    import jax
    from absl import logging

    from rlhf_jax import hosts

    logging.set_verbosity(logging.INFO if hosts.first() else logging.WARNING)
    logging.set_stderrthreshold("info")
    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if folder is None:
        home = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
        folder = str(Path(home) / "rlhf_jax" / "programs")
    if folder:
        warnings.showwarning = _show_warning
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    try:
        jax.devices()
    except RuntimeError as error:
        line = str(error).strip().splitlines()[0]
        raise UserError(f"jax finds no device to run on: {line}") from error


_shown = warnings.showwarning
_UNREADABLE = re.compile("Error reading persistent compilation cache entry for '(.+?)'")


def _show_warning(message: Any, *about: Any, **more: Any) -> None:
    """As Python does, but removes compiled programs that jax cannot read.

    A kill or a full disk leaves half of one. jax compiles it again whenever it is asked
    for and never writes over it; once it is gone, jax writes it whole.
    """
    found = _UNREADABLE.match(str(message))
    if found is None:
        _shown(message, *about, **more)
        return
    import jax
    from absl import logging

    folder = Path(jax.config.values["jax_compilation_cache_dir"])
    logging.info("compiled programs %s in %s are damaged: again", found[1], folder)
    for path in folder.glob(f"{glob.escape(found[1])}-*-cache"):
        path.unlink(missing_ok=True)


def prepare_to_compile() -> None:
    """As `prepare`, for programs that are compiled and not run: the CPU alone, no cache
    of programs, and jax has not looked for devices yet."""
    _quiet()
    import jax

    jax.config.update("jax_platforms", "cpu")


def _quiet() -> None:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from rlhf_jax import planning

    planning.quiet()
