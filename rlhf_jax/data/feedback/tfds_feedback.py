"""A tfds builder of feedback: JSONL as array_record, without TensorFlow, without loss.

    builder = FeedbackJsonl(paths={"train": "feedback.jsonl"}, data_dir="datasets")
    builder.download_and_prepare()
    found = tfds_feedback.read(builder)

`found.skipped` and `found.counts` are those of the JSONL, kept beside the prepared
files. Later runs open these without the JSONL, by class or by folder
(`tfds_feedback.read("datasets/feedback_jsonl/1.0.0")`).
This module imports tensorflow_datasets, so it is imported by name.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from rlhf_jax.data.feedback import files, schema
from rlhf_jax.data.feedback.record import SAYS
from rlhf_jax.errors import UserError


class FeedbackJsonl(tfds.core.GeneratorBasedBuilder):
    """Feedback records from JSONL files.

    Features: `id`, `annotator` (empty where unknown), `kinds` (which fields hold
    feedback), `responses` (how many) and `record`, the whole record as one line of
    JSON, which is read back through the schema. `info.metadata` has, by split, what was
    `skipped` and its `counts`, as `files.FeedbackSet` has them.
    """

    VERSION = tfds.core.Version("1.0.0")

    def __init__(
        self,
        paths: Mapping[str, str | Path] | None = None,
        convert: files.Convert = schema.parse,
        on_bad_record: str = "stop",
        **builder: Any,
    ):
        """Make the builder.

        Args:
          paths: JSONL file of each split; needed for preparing only.
          convert: layout of the lines, see `converters`.
          on_bad_record: as in `files.read`.
          **builder: arguments of the tfds builder, `data_dir` above all.
        """
        self._paths = dict(paths or {})
        self._convert = convert
        self._on_bad_record = on_bad_record
        super().__init__(**{"file_format": "array_record", **builder})

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            metadata=tfds.core.MetadataDict(),
            description="What annotators said about responses to prompts.",
            features=tfds.features.FeaturesDict(
                {
                    "id": tfds.features.Text(),
                    "annotator": tfds.features.Text(),
                    "kinds": tfds.features.Sequence(tfds.features.Text()),
                    "responses": tfds.features.Scalar(np.int64),
                    "record": tfds.features.Text(),
                }
            ),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager  # nothing is downloaded
        if not self._paths:
            raise UserError("FeedbackJsonl has no paths to prepare splits from")
        return {
            split: self._generate_examples(path, split)
            for split, path in self._paths.items()
        }

    def _generate_examples(
        self, path: Any, split: str
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        found = files.read(path, self._convert, on_bad_record=self._on_bad_record)
        counted = {"skipped": list(found.skipped), "counts": dict(found.counts)}
        metadata = self.info.metadata
        assert isinstance(metadata, dict)  # as `_info` makes it
        metadata[split] = counted
        for record in found.records:
            yield (
                record.id,
                {
                    "id": record.id,
                    "annotator": record.annotator or "",
                    "kinds": [name for name in SAYS if getattr(record, name)],
                    "responses": len(record.responses),
                    "record": files.line(record),
                },
            )


def read(
    builder: Any, *, split: str = "train", on_bad_record: str = "stop"
) -> files.FeedbackSet:
    """Read a prepared builder as a random-access data source (no TensorFlow).

    Args:
      builder: a prepared `FeedbackJsonl`, or the folder of one.
      split: name of the split, slicing allowed.
      on_bad_record: as in `files.read`.

    Returns:
      The records; `skipped` and `counts` begin with those of the file that the whole
      split was prepared from.

    Raises:
      UserError: the builder is not prepared, or a record is bad.
    """
    name = f"{builder if isinstance(builder, str | Path) else builder.name}/{split}"
    try:
        if isinstance(builder, str | Path):
            builder = tfds.builder_from_directory(builder)
        source = builder.as_data_source(split=split)
    except Exception as error:  # tfds raises a dozen unrelated types here
        message = " ".join(str(error).split())[:200]
        raise UserError(f"cannot open tfds dataset {name}: {message}") from error
    rows = (source[index]["record"] for index in range(len(source)))
    found = files.from_rows(rows, on_bad_record=on_bad_record, name=name)
    before = _prepared(builder.info.metadata or {}, split)
    counts = collections.Counter(found.counts)
    for part in before:
        counts.update(part["counts"])
    skipped = [line for part in before for line in part["skipped"]]
    return found._replace(skipped=(*skipped, *found.skipped), counts=dict(counts))


def _prepared(metadata: Mapping[str, Any], split: str) -> list[Mapping[str, Any]]:
    """What was skipped when the splits that `split` names (`train[:9]`) were made."""
    names = set(re.findall(r"\w+", split))
    return [part for name, part in metadata.items() if name in names or split == "all"]
