"""Data: records, sources, tokenizers and random-access streams of batches.

One JSON object a line (`jsonl`), a mapping (`mappings`) or a tfds row (`tfds`)::

    prompt         {"prompt": "..."}
    demonstration  {"prompt": "...", "response": "..."}
    document       {"text": "..."}
    conversation   {"messages": [{"role": "user", "content": "..."}, ...]}
    pair           {"prompt": "...", "chosen": "...", "rejected": "...",
                    "margin": 0.0, "tie": false}
    ranking        {"prompt": "...", "responses": ["...", ...],
                    "ranks": [1, 2, 2, 0], "margin": 0.0}

`ranks`: 1 is best, equal numbers tie, 0 is not ranked; `margin` and `tie` may be left
out, as may `"id"` (unique) and `"weight"` (1) in every kind; other fields are kept for
scorers. A text may be a list of token ids, a prompt also a list of messages::

    encoder = data.Encoder(tokenizer=tokenizer.load("model/"), prompt_limit=512)
    stream = data.ranking_stream(data.jsonl("prefs.jsonl", "pair"), encoder,
                                 batch_size=64, seed=0, lengths=(256, 640))
    batch = stream.batch(step)                   # types.RankingBatch, NumPy arrays
    step = stream.resume(checkpoint["data"])     # what stream.position(step) gave
"""

from rlhf_jax.data.encode import Encoder
from rlhf_jax.data.pipeline import prompt_stream, ranking_stream, sequence_stream
from rlhf_jax.data.preference_stream import comparison_stream
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
from rlhf_jax.data.sources import (
    Dataset,
    in_memory,
    jsonl,
    mappings,
    read,
    require_weight,
    split,
    tfds,
)
from rlhf_jax.data.stream import Rows, Stream
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
    "Rows",
    "Stream",
    "Tokenizer",
    "comparison_stream",
    "in_memory",
    "jsonl",
    "mappings",
    "pair",
    "prompt_stream",
    "ranking_stream",
    "read",
    "require_weight",
    "sequence_stream",
    "split",
    "tfds",
]
