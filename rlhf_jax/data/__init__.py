"""Data: records, sources, tokenizers and random-access streams of batches."""

from rlhf_jax.data.encode import Encoder
from rlhf_jax.data.pipeline import prompt_stream, ranking_stream, sequence_stream
from rlhf_jax.data.records import (
    Conversation,
    Demonstration,
    Document,
    Message,
    Prompt,
    Ranking,
    Record,
    pair,
)
from rlhf_jax.data.sources import Dataset, in_memory, jsonl, mappings, partition, tfds
from rlhf_jax.data.stream import Stream
from rlhf_jax.data.tokenizer import Tokenizer

__all__ = [
    "Conversation",
    "Dataset",
    "Demonstration",
    "Document",
    "Encoder",
    "Message",
    "Prompt",
    "Ranking",
    "Record",
    "Stream",
    "Tokenizer",
    "in_memory",
    "jsonl",
    "mappings",
    "pair",
    "partition",
    "prompt_stream",
    "ranking_stream",
    "sequence_stream",
    "tfds",
]
