"""A tfds builder of our own: JSONL preferences as array_record, without TensorFlow.

It shows how any other source becomes a tfds dataset: declare the features, yield
examples, `download_and_prepare`, and hand the builder to `sources.tfds`::

    builder = PreferenceJsonl(paths={"train": "prefs.jsonl"}, data_dir="datasets")
    builder.download_and_prepare()
    dataset = data.tfds(builder, "ranking")

Later runs open the prepared files without the JSONL, by class
(`PreferenceJsonl(data_dir="datasets")`) or by folder
(`data.tfds("datasets/preference_jsonl/1.0.0", "ranking")`). This
module imports tensorflow_datasets, so it is imported by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from rlhf_jax.data import sources
from rlhf_jax.data.records import Ranking
from rlhf_jax.errors import UserError


class PreferenceJsonl(tfds.core.GeneratorBasedBuilder):
    """Pairs or K-wise rankings of text from JSONL files.

    Features: `id`, `prompt` (text), `responses` (sequence of text), `ranks` (sequence
    of int64, 1 = best, ties equal, 0 = not ranked), `margin`, `weight`.
    """

    VERSION = tfds.core.Version("1.0.0")

    def __init__(
        self,
        *,
        paths: Mapping[str, str | Path] | None = None,
        kind: str = "pair",
        on_bad_line: str = "stop",
        **builder: Any,
    ):
        """Make the builder.

        Args:
          paths: JSONL file of each split; needed for preparing only.
          kind: `pair` or `ranking`, the form of the lines.
          on_bad_line: as in `sources.jsonl`.
          **builder: arguments of the tfds builder, `data_dir` above all.
        """
        if kind not in ("pair", "ranking"):
            raise UserError(f"preferences are 'pair' or 'ranking' lines, not '{kind}'")
        self._paths = dict(paths or {})
        self._kind = kind
        self._on_bad_line = on_bad_line
        super().__init__(**{"file_format": "array_record", **builder})

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Preferences between responses to a prompt.",
            features=tfds.features.FeaturesDict(
                {
                    "id": tfds.features.Text(),
                    "prompt": tfds.features.Text(),
                    "responses": tfds.features.Sequence(tfds.features.Text()),
                    "ranks": tfds.features.Sequence(np.int64),
                    "margin": tfds.features.Scalar(np.float64),
                    "weight": tfds.features.Scalar(np.float64),
                }
            ),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager  # nothing is downloaded
        if not self._paths:
            raise UserError("PreferenceJsonl has no paths to prepare splits from")
        return {split: self._generate_examples(p) for split, p in self._paths.items()}

    def _generate_examples(self, path: Any) -> Iterator[tuple[str, dict[str, Any]]]:
        dataset = sources.jsonl(path, self._kind, on_bad_line=self._on_bad_line)
        for record in dataset.records:
            yield record.id, _row(record)


def _row(record: Any) -> dict[str, Any]:
    if not isinstance(record, Ranking):
        raise UserError(f"'{record.id}' is not a preference")
    texts = (record.prompt, *record.responses)
    if not all(isinstance(text, str) for text in texts):
        raise UserError(f"'{record.id}' is not plain text, which this builder stores")
    return {
        "id": record.id,
        "prompt": record.prompt,
        "responses": list(record.responses),
        "ranks": list(record.ranks),
        "margin": record.margin,
        "weight": record.weight,
    }
