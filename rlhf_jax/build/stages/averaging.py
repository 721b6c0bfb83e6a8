"""The averaging stage: the weights of several reward models as one (WARM)."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import numpy as np

from rlhf_jax import data, rollout
from rlhf_jax.algorithms import reward_averaging
from rlhf_jax.build.configs.section import Section
from rlhf_jax.build.runs.context import Context, Stage
from rlhf_jax.build.stages import label, normalization, rm_measures
from rlhf_jax.types import Network, Params, Scorer


def average(name: str, section: Section, context: Context) -> Stage:
    """Reads a section of kind `average`; later stages find its scorer by its name.

    `members` are earlier reward-model stages that started from the same weights;
    `data` are the rankings whose training half gives gain and bias, and whose held-out
    half it is judged on.
    """
    stage = _Average(
        name=name,
        members=section.names("members"),
        data=section.str("data"),
        batch_size=section.int("batch_size", 1),
        normalize=normalization.way(section, context),
        context=context,
        network=context.model.scalar(),
    )
    context.rewards[name] = stage.scorer
    context.policies[name] = stage.load
    return Stage(name, stage.run, stage.describe)


class _Average(NamedTuple):
    """What the section says; the weights are averaged whenever they are asked for."""

    name: str
    members: tuple[str, ...]
    data: str
    batch_size: int
    normalize: str
    context: Context
    network: Network

    def run(self) -> dict[str, Any]:
        """Judges the average on held-out pairs; measures gain and bias."""
        variables = self.load()
        measures = self.context.compiled(
            "average_measures", (), lambda: rm_measures.programs(self.network)
        )
        heldout = label.rankings(self.context, self.data, "heldout")
        batches = self.batches(heldout, "pad")
        scores = rm_measures.scores_of(measures.scores, variables, batches)
        noise = label.noise(self.context, self.data)
        result = rm_measures.judge(scores, heldout, noise)

        def responses() -> np.ndarray:
            training = label.rankings(self.context, self.data, "train")
            batches = self.batches(training, "drop")
            return rm_measures.ranked_scores(measures.scores, variables, batches)

        return result | normalization.gain_and_bias(
            self.normalize,
            self.context,
            self.network,
            variables,
            self.batch_size,
            responses,
        )

    def batches(self, found: data.Dataset, remainder: str) -> list[Any]:
        """All rankings of a dataset, in order."""
        stream = data.ranking_stream(
            found,
            self.context.task.encoder,
            batch_size=self.batch_size,
            seed=self.context.seeds.data,
            lengths=self.context.task.lengths,
            shuffle=False,
            remainder=remainder,
        )
        return list(stream.epoch())

    def load(self) -> Params:
        """The mean of the members' weights."""
        path = f"config.{self.name}.members"
        found = [self.context.policy(member, path) for member in self.members]
        return reward_averaging.average(found)

    def scorer(self) -> Scorer:
        """The average with its gain and bias."""
        done = self.context.folder(self.name) / "done.json"
        result = json.loads(done.read_text())["result"]
        gain, bias = result["gain"], result["bias"]
        held = self.context.held(self.load())
        return rollout.reward_model_scorer(self.network, held, gain=gain, bias=bias)

    def describe(self) -> dict[str, Any]:
        """What `check` prints; nothing is trained here."""
        return {"members": ", ".join(self.members)}
