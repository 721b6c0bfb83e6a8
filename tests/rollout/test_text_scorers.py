import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import rollout
from rlhf_jax.errors import UserError
from rlhf_jax.ops import masking

PROMPTS = [[1, 2, 3], [4], [2, 2]]
RESPONSES = [[5, 6, 0], [3, 3, 3, 1], [0]]
LETTERS = "_abcdef"


def decode(tokens):
    return "".join(LETTERS[t] for t in tokens)


class Record:
    def __init__(self, name):
        self.id = name


RECORDS = [{"id": "first"}, Record("second"), "third"]


def apply(scorer, result):
    return np.asarray(scorer.apply(scorer.init(), None, result).sequence)


def scorer_of(fn):
    return rollout.function_scorer(fn, decode, RECORDS, name="my.py:fn")


@pytest.fixture
def result(make_rollout):
    return make_rollout(PROMPTS, RESPONSES, prompt_width=5, width=6, pad=6)


def test_text_of_a_rollout_is_that_of_its_real_tokens(result):
    """Padding and the stop token are left out; an empty response is empty."""
    texts = rollout.decode_rollout(result, decode)
    assert texts.prompts == ["abc", "d", "bb"]
    assert texts.responses == ["ef", "ccca", ""]
    assert texts.ids == [0, 1, 2]


def test_a_function_gets_lists_and_its_numbers_come_back(result):
    seen = []

    def fn(prompts, responses, records):
        seen.append((prompts, responses, records))
        return [len(p) - len(r) for p, r in zip(prompts, responses, strict=True)]

    ours = apply(scorer_of(fn), result)
    np.testing.assert_array_equal(ours, [1.0, -3.0, 2.0])
    assert ours.dtype == np.float32
    assert seen == [(["abc", "d", "bb"], ["ef", "ccca", ""], RECORDS)]


def test_records_are_found_by_example_id(result):
    moved = result.prompt._replace(example_id=jnp.array([2, 0, 2], jnp.int32))
    seen = []

    def fn(prompts, responses, records):
        seen.extend(records)
        return np.zeros(3)

    apply(scorer_of(fn), result._replace(prompt=moved))
    assert seen == [RECORDS[2], RECORDS[0], RECORDS[2]]


def raising(prompts, responses, records):
    if "d" in prompts:
        raise KeyError("no such word")
    return [0.0] * len(prompts)


def raising_together(prompts, responses, records):
    if len(prompts) > 1:
        raise MemoryError("too many")
    return [0.0]


@pytest.mark.parametrize(
    "fn, message",
    [
        (raising, r"raised KeyError: .* on sample 1 \(id 'second'"),
        (raising_together, r"raised MemoryError: .*ids \[0, 1, 2\].*each of them"),
        (lambda p, r, c: [0.0, float("nan"), 1.0], r"nan, .*sample 1 \(id 'second'"),
        (lambda p, r, c: [0.0, 1.0, np.inf], r"inf, .*sample 2 \(id 2"),
        (lambda p, r, c: [None, 1.0, 2.0], r"None, .*sample 0 \(id 'first'"),
        (lambda p, r, c: ["good", 1.0, 2.0], r"'good', .*sample 0 \(id 'first'"),
        (lambda p, r, c: [0.0], r"1 scores for 3 samples.*sample 1 \(id 'second'"),
        (lambda p, r, c: [0.0] * 5, r"5 scores for 3 samples.*sample 2"),
        (lambda p, r, c: 3.0, r"returned float, not a list.*sample 0"),
        (lambda p, r, c: None, r"returned NoneType, not a list.*sample 0"),
    ],
    ids=[
        "raise",
        "batch",
        "nan",
        "inf",
        "none",
        "text",
        "short",
        "long",
        "float",
        "no",
    ],
)
def test_whatever_goes_wrong_names_the_sample(result, fn, message):
    with pytest.raises(UserError, match=message) as caught:
        apply(scorer_of(fn), result)
    assert str(caught.value).startswith("my.py:fn ")


def test_a_record_that_does_not_exist_is_named(result):
    scorer = rollout.function_scorer(lambda p, r, c: [0.0] * 3, decode, RECORDS[:2])
    with pytest.raises(UserError, match="example id 2"):
        apply(scorer, result)


def test_functions_are_loaded_from_files_and_modules(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("def fn(prompts, responses, records):\n    return [1.0]\nX = 3\n")
    assert rollout.load_function(f"{path}:fn")([], [], []) == [1.0]
    assert rollout.load_function("math:sqrt")(4.0) == 2.0
    broken = tmp_path / "broken.py"
    broken.write_text("raise ValueError('at import')\n")
    for spec, message in (
        (f"{path}", "does not name a function"),
        (f"{path}:", "does not name a function"),
        (f"{path}:other", r"no function 'other'; it has \['fn'\]"),
        (f"{path}:X", "not a function but of type int"),
        (f"{tmp_path}/absent.py:fn", "does not exist"),
        (f"{broken}:fn", "ValueError: at import"),
        ("no_such_module:fn", "cannot be imported"),
    ):
        with pytest.raises(UserError, match=message):
            rollout.load_function(spec)


def test_functions_of_two_files_of_one_name_are_told_apart(tmp_path):
    for folder, value in (("a", 1), ("b", 2)):
        (tmp_path / folder).mkdir()
        text = f"def fn(*args):\n    return {value}\n"
        (tmp_path / folder / "mine.py").write_text(text)
    first = rollout.load_function(f"{tmp_path}/a/mine.py:fn")
    second = rollout.load_function(f"{tmp_path}/b/mine.py:fn")
    assert (first(), second()) == (1, 2)


@pytest.mark.identity("I20")
def test_a_foreign_reward_model_reads_its_own_tokens(fake, result):
    """The text is encoded by the reward model's own function and the score is read at
    its last token, whatever the policy's layout."""

    def encode(prompt, response):
        return [6] + ["fedcba".index(c) for c in prompt + response]

    scorer = rollout.foreign_reward_model_scorer(
        fake.network, fake.params, decode, encode, max_length=9, gain=2.0, bias=1.0
    )
    expected = []
    for text in (("abc", "ef"), ("d", "ccca"), ("bb", "")):
        tokens = jnp.asarray([encode(*text)], jnp.int32)
        mask = jnp.ones(tokens.shape, bool)
        inputs = masking.join(tokens[:, :0], mask[:, :0], tokens, mask)
        scalars = fake.network.apply(fake.params, inputs).scalars
        expected.append(2 * float(scalars[0, -1]) + 1)
    np.testing.assert_allclose(apply(scorer, result), expected, atol=1e-5)


@pytest.mark.parametrize("length", [0, 10])
def test_a_text_that_does_not_fit_the_reward_model_is_named(fake, result, length):
    scorer = rollout.foreign_reward_model_scorer(
        fake.network,
        fake.params,
        decode,
        lambda p, r: [1] * (length if p == "d" else 3),
        max_length=9,
    )
    with pytest.raises(UserError, match=rf"{length} tokens of sample 1 \(id 1\)"):
        apply(scorer, result)
