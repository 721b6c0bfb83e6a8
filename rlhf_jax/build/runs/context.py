"""What the stages of a run share: data, models, where to write, how to go on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from rlhf_jax import algorithms, data, hosts, rng
from rlhf_jax.build.configs.section import Section
from rlhf_jax.build.configs.seeds import Seeds
from rlhf_jax.build.objective import aggregates
from rlhf_jax.build.plans import planned
from rlhf_jax.build.runs import elsewhere, models, programs, sharing
from rlhf_jax.build.runs.models import Model
from rlhf_jax.build.runs.programs import Programs
from rlhf_jax.build.tasks.task_type import Task
from rlhf_jax.errors import UserError
from rlhf_jax.placement import Placement
from rlhf_jax.training import loop, retention, writers
from rlhf_jax.training.stopping import Stop
from rlhf_jax.types import Array, Learner, Params, PromptBatch, Scorer, TrainState

T = TypeVar("T")


class Stage(NamedTuple):
    """One named step of a run.

    Attributes:
      name: its folder in the workdir.
      run: does the work, or goes on with it; returns the result for `done.json`.
      describe: what `check` prints, computed from shapes alone.
      plan: the programs of a step as shapes; None where a stage has no such step.
      measures: what held-out evaluations measure, without `eval/`, standard errors and
        alarms; None where a stage has none.
    """

    name: str
    run: Callable[[], dict[str, Any]]
    describe: Callable[[], Mapping[str, Any]]
    plan: Callable[[], planned.Plan] | None = None
    measures: Callable[[], Iterable[str]] | None = None


class Context(NamedTuple):
    """Shared by the stages of one run.

    Attributes:
      workdir: folder of the run.
      task: data and gold.
      model: architecture.
      seeds: of the four purposes.
      settings: flat config that a stage's checkpoints depend on, by stage name.
      notes: flat config that changes no numbers.
      save_every: steps between checkpoints.
      retention: which checkpoints stay.
      progress: show progress bars.
      writers: where metrics and samples go.
      stop: set by SIGTERM.
      dump_step: PPO step whose intermediates are written, or -1.
      policies: stage name -> function that loads its policy as plain variables.
      rewards: stage name -> function that builds its scorer.
      eval_scorers: names of the scorers that are only ever measured.
      user_scorer: `config.scorer`, or None.
      gold_source: `task`, or the stage whose reward model stands in for gold.
      programs: compiled programs, shared with other runs of a study.
      seat: makes the learner of a PPO stage; in a pack, one of its seats.
      placement: the mesh, and what lies where on it.
    """

    workdir: Path
    task: Task
    model: Model
    seeds: Seeds
    settings: dict[str, Mapping[str, Any]]
    notes: Mapping[str, Any]
    save_every: int
    retention: retention.Retention
    progress: bool
    writers: list[writers.Writer]
    stop: Stop
    dump_step: int
    policies: dict[str, Callable[[], Params]]
    rewards: dict[str, Callable[[], Scorer]]
    eval_scorers: tuple[str, ...]
    user_scorer: Scorer | None
    gold_source: str
    programs: Programs
    seat: Callable[[algorithms.PPO], Learner]
    placement: Placement

    def compiled(self, kind: str, made_of: Any, make: Callable[[], T]) -> T:
        """A program of this model and these lengths, built once in the process.

        Args:
          kind: what it is.
          made_of: further plain values that it closes over.
          make: builds it.
        """
        model, task = self.model, self.task
        shared = (
            repr((model.config, model.lora, model.options)),
            (task.prompt_length, task.response_length, task.stop_tokens),
            task.tokenizer.pad_token,
            repr(self.placement._replace(names={})),
        )
        return self.programs.reuse((kind, shared, made_of), make)

    def learner(self, kind: str, section: Section, made: Learner) -> Learner:
        """The learner on the compiled step of an earlier one whose parts are equal.

        Args:
          kind: what it is.
          section: what it was made of.
          made: the learner; its numbers that are state come from its own `init`.
        """
        made_of = programs.of_learner(section.values())
        return made._replace(update=self.compiled(kind, made_of, lambda: made.update))

    def folder(self, stage: str) -> Path:
        """The stage's folder."""
        return self.workdir / stage

    def init_key(self, stage: str) -> Array:
        """Key of a stage's initial weights."""
        return rng.named(rng.root(self.seeds.init), "init", stage)

    def policy(self, source: str, path: str) -> Params:
        """Plain variables of a policy: a stage's, the first weights (`init`), or those
        of a folder: a stage of another run, a Hugging Face directory.

        Raises:
          UserError: no such stage comes before, and no such folder holds a model.
        """
        if source not in self.policies and elsewhere.is_folder(source):
            return self.placement.put(
                elsewhere.policy(source, path, self.notes["mesh"])
            )
        if source not in self.policies:
            raise UserError(
                f"{path}='{source}' names no policy that an earlier stage trains;"
                f" there are: {', '.join(self.policies)}"
            )
        return self.policies[source]()

    def held(self, variables: Params) -> Params:
        """Variables of a model that is asked and not trained: in `model.frozen_dtype`,
        and where `mesh.host_frozen` says."""
        return self.placement.frozen().put(self.model.held(variables))

    def scorer(self, source: str, path: str) -> Scorer:
        """The scorer that a config names.

        Args:
          source: a reward-model stage (`rm`), a Hugging Face directory of a reward
            model with its own tokenizer (`./reward-model`), a stage folder of another
            run with the same tokenizer (`runs/a/rm`), several of these as
            `sum:a,b`, `mean:a,b`, `minimum:a,b`, `mean_minus_std(0.5):a,b` or
            `mean_minus_variance(0.5):a,b`, or `gold`, the task's own reward.
          path: key that names it, for messages.

        Raises:
          UserError: no such stage comes before, and no such directory exists.
        """
        several = aggregates.parse(source)
        if several is not None:
            return several.make([self.scorer(name, path) for name in several.members])
        if source in self.rewards:
            return self.rewards[source]()
        if source == "gold" and self.task.gold is not None:
            return self.task.gold
        if (Path(source) / "config.json").is_file():
            return models.foreign_scorer(Path(source), self.task, self.held)
        if elsewhere.is_folder(source):
            return elsewhere.scorer(source, path, self.notes["mesh"], self.held)
        raise UserError(
            f"{path}='{source}' names no reward model that an earlier stage trains, and"
            f" no directory; stages: {', '.join(self.rewards) or 'none'}"
        )

    def gold(self) -> Scorer | None:
        """The gold reward: the task's, or a reward model on a disjoint half."""
        if self.gold_source == "task":
            return self.task.gold
        return self.scorer(self.gold_source, "config.gold")

    def train(
        self,
        stage: str,
        learner: Learner,
        *,
        frozen: Any,
        batches: Any,
        steps: int,
        init_from: Any = None,
        evaluate: loop.Evaluate | None = None,
        eval_every: int = 0,
        seed: int | None = None,
    ) -> TrainState:
        """Runs `training.train` with what every stage of this run has in common."""
        key = rng.named(rng.root(self.seeds.sampling if seed is None else seed), stage)
        batches, place = sharing.shares(batches, self.placement)
        return loop.train(
            learner,
            stage=stage,
            workdir=self.workdir,
            key=key,
            frozen=frozen,
            batches=batches,
            steps=steps,
            fingerprint=self.settings[stage],
            notes=self.notes,
            save_every=self.save_every,
            retention=self.retention,
            evaluate=evaluate,
            eval_every=eval_every,
            writers=tuple(self.writers),
            stop=self.stop,
            init_from=init_from,
            progress=self.progress and hosts.first(),
            shardings=self.placement.shardings if self.placement.spread else None,
            place_batch=place,
        )

    def prompts(self, dataset: data.Dataset, count: int | None = None) -> PromptBatch:
        """The first prompts of a dataset as one batch; ids are rows of the task's
        common table, held-out rows after the training rows."""
        total = len(dataset.records)
        count = total if count is None else count
        if count > total:
            raise UserError(
                f"{count} prompts are asked for, but '{dataset.name}' has {total};"
                " lower the number, or give the task more"
            )
        stream = data.prompt_stream(
            dataset,
            self.task.encoder,
            batch_size=count,
            seed=0,
            lengths=(self.task.prompt_length,),
            shuffle=False,
        )
        batch = stream.batch(0)
        offset = 0
        if dataset is self.task.heldout:
            offset = len(self.task.prompts.records)
        return jax.tree.map(
            jnp.asarray, batch._replace(example_id=batch.example_id + offset)
        )
