"""Tasks: what each kind gives, that all keys are read, and what the errors name."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import data
from rlhf_jax.build.configs import preference_sections, sections
from rlhf_jax.build.configs.section import Section
from rlhf_jax.build.configs.seeds import Seeds
from rlhf_jax.build.tasks import tasks, text_tasks
from rlhf_jax.data import tokenizer as tokenizers
from rlhf_jax.errors import UserError
from rlhf_jax.types import PromptBatch, Rollout
from rlhf_jax.worlds import key_lm

SEEDS = Seeds(0, 0, 0, 0)


def section_of(config):
    return Section(config.to_dict(), "config.task")


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """A directory with a small tokenizer."""
    folder = tmp_path_factory.mktemp("tokenizer")
    names = ["<pad>", "<eos>", *"abcdefgh"]
    tokenizers.symbols(10, pad_token=0, end_token=1, names=names).save(folder)
    return str(folder)


@pytest.fixture
def small(monkeypatch):
    """A corpus of three modules in place of the standard library."""

    def record(module, name):
        return data.Demonstration(
            id=f"{module}:{name}",
            prompt=f"The body of {name} says at length what it does.",
            response=f"Do what {name} does",
            extra={"module": module},
        )

    train = tuple(record("one", f"f{i}") for i in range(4))
    held = (record("two", "g"), record("three", "h"))
    documents = tuple(data.Document(id=r.id, text=r.prompt) for r in train)
    corpus = text_tasks.documentation.Corpus(
        data.Dataset("train", train),
        data.Dataset("heldout", held),
        data.Dataset("documents", documents),
        (("one",), ("three", "two")),
    )
    monkeypatch.setattr(text_tasks, "_corpus", lambda: corpus)
    text_tasks._trained.cache_clear()
    yield corpus
    text_tasks._trained.cache_clear()


def rollout_of(task, row, response):
    """One response to the prompt of a row of the common table."""
    ids = task.encoder.response(response)
    tokens, mask = np.zeros((1, 24), np.int32), np.zeros((1, 24), bool)
    tokens[0, : len(ids)], mask[0, : len(ids)] = ids, True
    prompt = PromptBatch(
        tokens=jnp.ones((1, 2), jnp.int32),
        mask=jnp.ones((1, 2), bool),
        example_id=jnp.asarray([row], jnp.int32),
        weight=jnp.ones(1),
    )
    return Rollout(
        prompt=prompt,
        tokens=jnp.asarray(tokens),
        mask=jnp.asarray(mask),
        logprobs=jnp.zeros((1, 24)),
        terminal=jnp.asarray(mask & (tokens == task.tokenizer.end_token)),
        truncated=jnp.zeros(1, bool),
    )


@pytest.mark.parametrize("kind", ["key_lm", "files", "pydoc", "auto"])
def test_every_key_of_every_kind_is_read(kind, words, tmp_path, small):
    if kind == "key_lm":
        config = sections.key_lm_task(prompts=8, heldout=4)
    elif kind == "pydoc":
        config = sections.pydoc_task(vocab_size=260)
    elif kind == "files":
        path = lines(tmp_path / "d.jsonl", [{"prompt": "a b", "response": "c"}] * 40)
        config = sections.files_task(demonstrations=path, heldout_demonstrations=path)
    else:
        config = sections.key_lm_task(prompts=8, heldout=4)
        config = type(config)(
            dict(kind="auto", key_lm=config, pydoc=sections.pydoc_task())
        )
    section = section_of(config)
    tasks.task(section, SEEDS, words if kind != "key_lm" else None)
    section.finish()


def test_auto_takes_key_lm_for_a_directory_without_tokenizer(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 25}))
    config = sections.key_lm_task(prompts=8, heldout=4)
    section = section_of(
        type(config)(dict(kind="auto", key_lm=config, pydoc=sections.pydoc_task()))
    )
    task = tasks.task(section, SEEDS, str(tmp_path))
    section.finish()
    assert task.tokenizer.vocab_size == 25, "11 contents in two forms, and 3 more"
    assert task.gold_definition == key_lm.GOLD_DEFINITION
    longest = max(len(record.prompt) for record in task.prompts.records)
    assert longest <= task.prompt_length == 12


def test_auto_needs_a_model_directory():
    config = sections.key_lm_task(prompts=8, heldout=4)
    config = type(config)(dict(kind="auto", key_lm=config, pydoc=sections.pydoc_task()))
    with pytest.raises(UserError, match="config.model.path"):
        tasks.task(section_of(config), SEEDS, None)


@pytest.mark.parametrize("vocab_size", [13, 30, 43, 50_000])
def test_a_world_fits_into_a_vocabulary(vocab_size):
    world = tasks.fitted(key_lm.World(), vocab_size)
    assert world.vocab_size <= vocab_size
    prompts = key_lm.prompts(world, 0, 50)
    assert all(world.shortest <= len(prompt) <= world.longest for prompt in prompts)
    assert max(prompt.max() for prompt in prompts) < world.vocab_size
    key_lm.demonstrations(world, 1, prompts)
    if vocab_size >= 43:
        assert world == key_lm.World()


def test_a_vocabulary_that_is_too_small_is_named():
    with pytest.raises(UserError, match="11 tokens has room for 4 content"):
        tasks.fitted(key_lm.World(), 11)


def test_files_hold_out_the_same_prompts_of_every_file(words, tmp_path):
    letters = "abcdefgh"
    prompts = [f"{a} {b}" for a in letters for b in letters]
    demonstrations = [{"prompt": p, "response": "c"} for p in prompts]
    pairs = [
        {"prompt": p, "chosen": "c d", "rejected": "e"} for p in prompts for _ in "12"
    ]
    config = sections.files_task(
        tokenizer=words,
        demonstrations=lines(tmp_path / "d.jsonl", demonstrations),
        rankings=lines(tmp_path / "r.jsonl", pairs),
        ranking_kind="pair",
        heldout_share=0.25,
        prompt_suffix="",
        response_prefix="",
    )
    task = tasks.task(section_of(config), SEEDS, None)
    held = {record.prompt for record in task.heldout_demonstrations.records}
    assert 4 < len(held) < 30
    assert {record.prompt for record in task.heldout_rankings.records} == held
    assert not held & {record.prompt for record in task.rankings.records}
    assert task.prompts is task.demonstrations and task.gold is None


def test_files_of_conversations_lend_no_prompts(words, tmp_path):
    """They are for fine-tuning; what is sampled from are the prompts of the others."""
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    chats = lines(tmp_path / "c.jsonl", [{"messages": turns}] * 8)
    pairs = [{"prompt": "a", "chosen": "c", "rejected": "e"}] * 8
    config = sections.files_task(
        tokenizer=words,
        demonstrations=chats,
        demonstration_kind="conversation",
        rankings=lines(tmp_path / "r.jsonl", pairs),
        ranking_kind="pair",
        heldout_share=0.0,
    )
    task = tasks.task(section_of(config), SEEDS, None)
    assert {record.kind for record in task.demonstrations.records} == {"conversation"}
    assert task.prompts is task.rankings


def test_files_read_given_responses_longer_than_those_sampled(words, tmp_path):
    path = lines(
        tmp_path / "r.jsonl",
        [{"prompt": "a", "responses": ["b " * 7, "c"], "ranks": [1, 2]}] * 2,
    )
    config = sections.files_task(
        tokenizer=words,
        rankings=path,
        heldout_rankings=path,
        prompt_length=4,
        response_length=3,
        response_limit=8,
        prompt_suffix="",
        response_prefix="",
    )
    task = tasks.task(section_of(config), SEEDS, None)
    assert (task.length, task.lengths, task.response_length) == (12, (7, 12), 3)
    first = task.encoder.ranking(task.rankings.records[0])[0]
    assert len(first.tokens) == 1 + 8, "the response is not cut to what is sampled"


def test_rankings_without_any_order_are_refused_and_some_are_counted(
    words, tmp_path, caplog
):
    tied = {"prompt": "a", "responses": ["b", "c", "d"], "ranks": [1, 0, 1]}
    path = lines(tmp_path / "r.jsonl", [tied] * 5)
    config = sections.files_task(tokenizer=words, rankings=path, heldout_rankings=path)
    with pytest.raises(UserError, match=r"each of the 5 rankings of .*ties all"):
        tasks.task(section_of(config), SEEDS, None)
    same = {**tied, "responses": ["b", "c", "b"], "ranks": [1, 0, 2]}
    lines(tmp_path / "r.jsonl", [tied, same, {**tied, "ranks": [1, 0, 2]}])
    tasks.task(section_of(config), SEEDS, None)
    assert "2 of 3 rankings tie all their responses" in caplog.text


def test_feedback_that_truncation_makes_equal_gives_reward_models_nothing(
    words, tmp_path
):
    """And what else they do not learn from is counted: margins, bad records."""
    rows = [
        {"prompt": "a", "chosen": "b c d", "rejected": "b c e"},
        {"prompt": "b", "chosen": "b d", "rejected": "b c e", "margin": 2.0},
        {"prompt": "b", "chosen": "b", "rejected": "b"},
    ]
    config = preference_sections.feedback_task(
        path=lines(tmp_path / "f.jsonl", rows),
        tokenizer=words,
        heldout_share=0.0,
        response_length=2,
        on_bad_record="skip",
    )
    task = tasks.task(section_of(config), SEEDS, None)
    assert [record.prompt for record in task.rankings.records] == ["b"]
    assert task.feedback.left_out == {
        "bad record: identical responses": 1,
        "margin: not used": 1,
        "identical responses, once they are tokens": 1,
    }


def test_files_need_a_file_and_a_tokenizer(words):
    with pytest.raises(UserError, match="names no file"):
        tasks.task(section_of(sections.files_task(tokenizer=words)), SEEDS, None)
    with pytest.raises(UserError, match="config.task.tokenizer is None"):
        tasks.task(section_of(sections.files_task()), SEEDS, None)


def test_a_bad_line_is_named_or_skipped(words, tmp_path):
    rows = [{"prompt": "a", "response": "b"}, {"prompt": "a"}]
    path = lines(tmp_path / "d.jsonl", rows)
    config = sections.files_task(
        tokenizer=words, demonstrations=path, heldout_demonstrations=path
    )
    with pytest.raises(UserError, match=r"d\.jsonl:2.*response"):
        tasks.task(section_of(config), SEEDS, None)
    config.on_bad_line = "skip"
    task = tasks.task(section_of(config), SEEDS, None)
    assert len(task.prompts.records) == 1


def test_pydoc_scores_held_out_rows_after_the_training_rows(small):
    task = tasks.task(section_of(sections.pydoc_task(vocab_size=258)), SEEDS, None)
    offset = len(task.prompts.records)
    record = task.heldout.records[1]
    assert record.extra["cluster"] == "three"
    for row, right in ((offset + 1, True), (0, False)):
        found = rollout_of(task, row, "Do what h does")
        score = float(task.gold.apply(task.gold.init(), None, found).sequence[0])
        assert (score == pytest.approx(1.0)) == right
