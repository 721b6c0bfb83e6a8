"""Where configs differ."""

from rlhf_jax.studies import compare


def test_difference_keeps_only_what_differs():
    configs = [
        {"seed": 1, "ppo": {"lam": 0.95, "kl": {"coef": 0.1}}, "same": [1, 2]},
        {"seed": 2, "ppo": {"lam": 0.95, "kl": {"coef": 0.2}}, "same": [1, 2]},
        {"seed": 2, "ppo": {"lam": 0.95, "kl": {}}, "same": [1, 2], "new": None},
    ]
    assert compare.difference(configs) == {
        "seed": ["1", "2", "2"],
        "ppo.kl.coef": ["0.1", "0.2", compare.ABSENT],
        "ppo.kl": [compare.ABSENT, compare.ABSENT, "{}"],
        "new": [compare.ABSENT, compare.ABSENT, "null"],
    }


def test_types_differ_too():
    assert compare.difference([{"a": "1"}, {"a": 1}]) == {"a": ['"1"', "1"]}


def test_text_for_a_terminal():
    text = compare.text(["a", "long"], {"ppo.lam": ["0.9", "1"]})
    assert text == "ppo.lam\n  a     0.9\n  long  1"
    assert compare.text(["a", "b"], {}) == "the configs are the same"
