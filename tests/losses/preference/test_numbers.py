"""Numbers of methods as arguments: one program for every beta, and the plain term."""

import functools
import inspect

import jax
import numpy as np
import pytest

from rlhf_jax import losses
from rlhf_jax.build.objective import arguments
from rlhf_jax.build.runs import programs
from rlhf_jax.errors import UserError
from rlhf_jax.losses import preference

METHODS = [
    name
    for name, method in preference.METHODS.items()
    if set(inspect.signature(method.make).parameters) & set(arguments.OF_METHODS)
]
OTHER = {"beta": 0.3, "tau": 0.4, "label_smoothing": 0.2}


def keywords(name):
    """(defaults of a method, the same with its arguments changed)."""
    found = inspect.signature(preference.METHODS[name].make).parameters
    plain = {key: parameter.default for key, parameter in found.items()}
    return plain, {key: OTHER.get(key, value) for key, value in plain.items()}


@pytest.fixture
def case(preferences, labels):
    def make(name):
        if preference.METHODS[name].batch == "labels":
            return labels(0, 8)
        return preferences(0, [[1, 2], [2, 1], [1, 2], [2, 1]])

    return make


@pytest.mark.parametrize("name", METHODS)
def test_a_method_with_arguments_is_the_plain_one_in_one_program(name, case):
    """Values, gradients, reports and what it carries on, at two settings of the
    numbers; the step is compiled once."""
    outputs, batch = case(name)

    def made(lift, options):
        term = lift(functools.partial(preference.term, name), options)
        return losses.combine(term=term, reduction=losses.sequence_mean)

    def step(loss):
        def stepped(state, outputs, batch):
            prepared, state = loss.prepare(batch, state)

            def value(logprobs):
                now = preference.PreferenceOutputs(logprobs)
                return loss.apply(now, batch, prepared, 0)

            found = jax.value_and_grad(value, has_aux=True)(outputs.logprobs)
            return found, state["term"].own

        return stepped

    def plain(factory, options):
        return factory(**options)

    first, second = keywords(name)
    shared = jax.jit(step(made(arguments.method, first)))
    for options in (first, second):
        wanted = made(plain, options)
        expected, carried = step(wanted)(wanted.init(), outputs, batch)
        state = made(arguments.method, options).init()
        found, (_, own) = shared(state, outputs, batch)
        for a, b in zip(
            jax.tree.leaves((found, own)),
            jax.tree.leaves((expected, carried)),
            strict=True,
        ):
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)
    assert shared._cache_size() == 1


def test_a_bad_number_is_refused():
    """A bad number is refused before anything is compiled."""
    with pytest.raises(UserError, match="beta must be above 0, got -1"):
        arguments.method(functools.partial(preference.term, "dpo"), {"beta": -1.0})
    with pytest.raises(UserError, match=r"label_smoothing must be in \[0, 0.5\)"):
        arguments.method(
            functools.partial(preference.term, "cdpo"), {"label_smoothing": 0.7}
        )


def test_what_the_programs_of_a_section_are_made_of():
    """Two betas, two weights and two rates are one program; two losses, or a weight of
    0, are another."""

    def section(loss="dpo", beta=0.1, weight=1.0, rate=1e-3, alpha=0.5):
        return dict(
            loss=loss,
            dpo=dict(beta=beta, weight=weight),
            alpha_dpo=dict(alpha=alpha, beta=beta),
            optimizer=dict(name="adam", learning_rate=rate, b1=0.9, b2=0.99, eps=1e-8),
        )

    first = programs.of_learner(section())
    assert first == programs.of_learner(section(beta=0.4, weight=0.5, rate=1e-2))
    for other in (dict(loss="ipo"), dict(weight=0.0), dict(alpha=0.1)):
        assert first != programs.of_learner(section(**other))
