"""Where metrics and samples go: JSON lines always, dashboards on request.

`metrics.jsonl` holds one row per (stage, step) and `samples.jsonl` one row per sampled
response, both over all stages of a run. A resumed run first cuts what lies beyond its
checkpoint, so that no step appears twice and none is missing.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from rlhf_jax.errors import UserError

Row = Mapping[str, Any]


@runtime_checkable
class Writer(Protocol):
    """What the loop asks of a writer."""

    def begin(self, stage: str, step: int, evaluated: bool) -> None:
        """Forget rows of `stage` from `step` on; samples of `step` itself stay if it
        is already `evaluated`."""
        ...

    def write(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        """Take the metrics of one step."""
        ...

    def write_samples(self, stage: str, step: int, rows: Sequence[Row]) -> None:
        """Take sampled responses with their scores."""
        ...

    def flush(self) -> None:
        """Return once everything taken is on disk."""
        ...

    def close(self) -> None:
        """Flush and let go."""
        ...


class JsonlWriter:
    """`metrics.jsonl` and `samples.jsonl` in a work directory.

    Keys are sorted, `stage` and `step` first and `time/*` last; a value that is not
    finite is written as null, since JSON has no NaN.
    """

    def __init__(self, workdir: str | os.PathLike[str]) -> None:
        root = Path(workdir)
        root.mkdir(parents=True, exist_ok=True)
        self._metrics = _Lines(root / "metrics.jsonl")
        self._samples = _Lines(root / "samples.jsonl")

    def begin(self, stage: str, step: int, evaluated: bool) -> None:
        def beyond(row: Row, first: int) -> bool:
            return row.get("stage") == stage and int(row.get("step", 0)) >= first

        self._metrics.cut(lambda row: beyond(row, step))
        self._samples.cut(lambda row: beyond(row, step + evaluated))

    def write(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        order = sorted(metrics, key=lambda name: (name.startswith("time/"), name))
        row = {name: metrics[name] for name in order}
        self._metrics.append({"stage": stage, "step": step, **row})

    def write_samples(self, stage: str, step: int, rows: Sequence[Row]) -> None:
        for row in rows:
            self._samples.append({"stage": stage, "step": step, **row})

    def flush(self) -> None:
        self._metrics.sync()
        self._samples.sync()

    def close(self) -> None:
        self._metrics.close()
        self._samples.close()


class TensorBoardWriter:
    """TensorBoard events through tensorboardX, one run per stage.

    Tags carry the stage as prefix; each stage has its own folder, since purging the
    steps beyond a checkpoint would otherwise purge those of earlier stages too.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._root = Path(directory)
        self._writer: Any = None

    def begin(self, stage: str, step: int, evaluated: bool) -> None:
        from tensorboardX import SummaryWriter

        self.close()
        folder = str(self._root / stage)
        purge = step if (self._root / stage).exists() else None
        self._writer = SummaryWriter(folder, purge_step=purge, flush_secs=30)

    def write(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            if math.isfinite(value):
                self._writer.add_scalar(f"{stage}/{name}", value, step)

    def write_samples(self, stage: str, step: int, rows: Sequence[Row]) -> None:
        text = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows[:8])
        self._writer.add_text(f"{stage}/samples", text, step)

    def flush(self) -> None:
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def require_wandb() -> None:
    """Refuse to log to Weights & Biases where that cannot be imported.

    Raises:
      UserError: wandb is not installed.
    """
    if importlib.util.find_spec("wandb") is None:
        raise UserError(
            "logging to Weights & Biases needs the wandb package; install the wandb"
            " extra (pip install 'rlhf_jax[wandb]') or turn it off"
            " (config.logging.wandb=False)"
        )


class WandbWriter:
    """Weights & Biases, imported only when asked for (`pip install rlhf_jax[wandb]`).

    Raises:
      UserError: wandb is not installed.
    """

    def __init__(self, project: str, workdir: str, **options: Any) -> None:
        require_wandb()
        import wandb  # pyright: ignore[reportMissingImports]

        self._run = wandb.init(project=project, dir=workdir, resume="allow", **options)

    def begin(self, stage: str, step: int, evaluated: bool) -> None:
        self._run.define_metric(f"{stage}/step")
        self._run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")

    def write(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        row = {f"{stage}/{name}": value for name, value in metrics.items()}
        self._run.log({**row, f"{stage}/step": step})

    def write_samples(self, stage: str, step: int, rows: Sequence[Row]) -> None:
        """Samples stay in `samples.jsonl`."""

    def flush(self) -> None:
        """wandb keeps its own schedule."""

    def close(self) -> None:
        self._run.finish()


def read_rows(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Rows of a JSON-lines file; a half-written last line is left out."""
    path = Path(path)
    if not path.exists():
        return []
    return [row for row, _ in _parse(path)]


class _Lines:
    """A JSON-lines file that can be cut and brought to disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: Any = None

    def append(self, row: Row) -> None:
        if self._file is None:
            self._file = open(self._path, "a", encoding="utf-8")
        line = json.dumps(_plain(row), ensure_ascii=False, allow_nan=False)
        self._file.write(line + "\n")
        self._file.flush()

    def cut(self, drop: Callable[[Row], bool]) -> None:
        """Remove rows, and a half-written end, in one atomic replacement."""
        self.close()
        if not self._path.exists():
            return
        kept = [line for row, line in _parse(self._path) if not drop(row)]
        temporary = self._path.with_suffix(".jsonl.tmp")
        with open(temporary, "w", encoding="utf-8") as file:
            file.writelines(kept)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self._path)

    def sync(self) -> None:
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        if self._file is not None:
            self.sync()
            self._file.close()
            self._file = None


def _parse(path: Path) -> Iterable[tuple[dict[str, Any], str]]:
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            if not line.endswith("\n"):
                return
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(row, dict):
                yield row, line


def _plain(value: Any) -> Any:
    """Numbers, text, lists and dicts only; numpy and jax values become plain."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return str(value)
