"""A task of shapes alone: what `plan` reads in place of files that are not there.

A recipe for a pod names its files on the command line, and its tokenizer with them.
Programs depend on lengths only, so that a plan needs neither.
"""

from __future__ import annotations

from rlhf_jax import data
from rlhf_jax.build.configs.section import Section
from rlhf_jax.build.tasks import text_tasks
from rlhf_jax.build.tasks.task_type import Task
from rlhf_jax.data import tokenizer as tokenizers
from rlhf_jax.rollout import scorers

RECORDS = 1 << 14
"""Stand-ins of each kind: more than a recipe asks for at once."""


def shapes(section: Section, data_seed: int, model_path: str | None) -> Task:
    """Reads the keys of `text_tasks.files`; every record is a stand-in.

    The tokenizer has two tokens: a recipe gives `config.model.vocab_size`.
    """
    del data_seed, model_path
    sampled = section.int("response_length", 2)
    longest = section.optional("response_limit", section.int) or sampled
    section.choice("demonstration_kind", ("demonstration", "conversation"))
    pair = section.choice("ranking_kind", ("ranking", "pair")) == "pair"
    for key in ("demonstrations", "rankings", "prompts"):
        for name in (key, f"heldout_{key}"):
            section.optional(name, section.str)
    section.optional("pretraining", section.str)
    section.optional("tokenizer", section.str)
    section.str("on_bad_line")
    section.float("heldout_share", 0.0)
    tokenizer = tokenizers.symbols(2, pad_token=0, end_token=1)
    given = _records(2 if pair else 4)
    return Task(
        encoder=text_tasks.text_encoder(section, tokenizer, longest),
        prompts=given["prompt"],
        heldout=given["prompt"],
        demonstrations=given["demonstration"],
        heldout_demonstrations=None,
        rankings=given["ranking"],
        heldout_rankings=None,
        pretraining=given["document"],
        gold=scorers.world_scorer(lambda *arrays: arrays[2].sum(axis=1) * 0.0),
        gold_definition="none: shapes alone",
        prompt_length=section.int("prompt_length", 1),
        response_length=sampled,
    )


def _records(responses: int) -> dict[str, data.Dataset]:
    """Datasets of one record, many times."""
    answers = tuple((index % 2,) for index in range(responses))
    ranks = tuple(range(1, responses + 1))
    shown = (
        data.Prompt(id="shape", prompt=(0,)),
        data.Demonstration(id="shape", prompt=(0,), response=(1,)),
        data.Ranking(id="shape", prompt=(0,), responses=answers, ranks=ranks),
        data.Document(id="shape", text=(0, 1)),
    )
    return {
        record.kind: data.Dataset("shapes", (record,) * RECORDS) for record in shown
    }
