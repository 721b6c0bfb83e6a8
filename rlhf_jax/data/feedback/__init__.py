"""Human feedback of any kind: one record, its files, views for losses, agreement.

One JSON object a line; only `id`, `prompt`, `responses` and one kind of feedback are
needed::

    {"id": "q1", "prompt": "..." or [{"role": "user", "content": "..."}],
     "responses": [{"id": "a", "text": "...", "source": "model-7"}, {"id": "b", ...}],
     "ranking": [["b"], ["a", "c"]],                      best first, ties in a group
     "pairs": [{"better": "a", "worse": "b", "strength": 2, "tie": false}],
     "ratings": [{"response": "a", "attribute": "helpfulness",
                  "value": 3, "low": 0, "high": 4}],
     "labels": [{"response": "a", "good": true}],
     "edits": [{"response": "a", "text": "..."}],
     "comments": [{"text": "...", "response": "a"}],
     "follow_ups": [{"response": "a", "message": "..."}],
     "annotator": "ann-3", "time": "2026-05-04T12:00:00+00:00",
     "provenance": "...", "parents": ["q0"], "weight": 1, "extra": {}}

::

    found = feedback.read("feedback.jsonl", on_bad_record="skip")
    print(found.counts)                          # {"cyclic preference": 2}
    view = feedback.views.pairs(found.records)
    print(found.left_out)                        # {"empty response": 5}, of responses
    print(view.dropped)                          # {"tie: no preference": 31}
    stream = data.ranking_stream(view.dataset("pairs"), encoder, ...)
"""

from rlhf_jax.data.feedback import (
    agreement,
    converters,
    dawid_skene,
    helpsteer2,
    oasst,
    reports,
    shares,
    tables,
    views,
)
from rlhf_jax.data.feedback.files import FeedbackSet, from_rows, read, write
from rlhf_jax.data.feedback.record import (
    Comment,
    Edit,
    Feedback,
    FeedbackError,
    FollowUp,
    Label,
    LeftOut,
    Pair,
    Rating,
    Response,
)
from rlhf_jax.data.feedback.schema import parse, row

__all__ = [
    "Comment",
    "Edit",
    "Feedback",
    "FeedbackError",
    "FeedbackSet",
    "FollowUp",
    "Label",
    "LeftOut",
    "Pair",
    "Rating",
    "Response",
    "agreement",
    "converters",
    "dawid_skene",
    "from_rows",
    "helpsteer2",
    "oasst",
    "parse",
    "read",
    "reports",
    "row",
    "shares",
    "tables",
    "views",
    "write",
]
