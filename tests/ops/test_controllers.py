"""KL coefficients: fixed, scheduled, proportional, Lagrangian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.ops import controllers


def _run(controller, kls, episodes=4.0):
    state, coefs = controller.init(), []
    for kl in kls:
        coefs.append(float(controller.coef(state)))
        state = controller.update(state, jnp.asarray(kl), jnp.asarray(episodes))
    return coefs


def test_fixed_and_scheduled():
    assert _run(controllers.fixed(0.25), [1.0, 9.0, 3.0]) == [0.25] * 3
    schedule = controllers.fixed(lambda count: 0.1 * count)
    np.testing.assert_allclose(_run(schedule, [1.0] * 3), [0.0, 0.1, 0.2], rtol=1e-6)


def test_a_fixed_number_is_an_argument_of_the_program():
    """Two runs that differ in the number share one compiled step."""
    one, other = controllers.fixed(0.1), controllers.fixed(0.7)
    assert float(one.coef(other.init())) == pytest.approx(0.7)


@pytest.mark.identity("C24")
def test_the_proportional_controller_in_closed_form():
    """At a constant KL of twice the target the coefficient grows by 1 + 0.2 n /
    horizon with each batch."""
    coefs = _run(controllers.proportional(0.15, 6.0, 100.0), [12.0] * 5)
    np.testing.assert_allclose(coefs, 0.15 * (1 + 0.2 * 4 / 100) ** np.arange(5), 1e-5)


def test_the_lagrangian_settles_where_the_constraint_binds():
    """KL = 1 / coef reaches the target, from either side; the coefficient stays
    positive, and a NaN or an empty batch changes nothing."""
    controller = controllers.lagrangian(1.0, 4.0, 0.1)
    for first in (0.01, 10.0):
        state = controllers.lagrangian(first, 4.0, 0.1).init()
        for _ in range(400):
            kl = 1.0 / controller.coef(state)
            state = controller.update(state, kl, jnp.asarray(8.0))
        assert float(controller.coef(state)) == pytest.approx(0.25, rel=0.05)
    state = controller.init()
    for kl, episodes in ((jnp.nan, 4.0), (9.0, 0.0)):
        after = controller.update(state, jnp.asarray(kl), jnp.asarray(episodes))
        assert after == state


def test_what_moves_a_coefficient_is_an_argument_of_the_program():
    """One compiled step follows any target, horizon and rate; each matters."""
    for make in (controllers.proportional, controllers.lagrangian):
        step = jax.jit(make(0.2, 1.0, 1.0).update)
        ends = set()
        for target, pace in ((4.0, 0.5), (2.2, 0.5), (4.0, 0.3)):
            own = make(0.2, target, pace)
            state, kl = own.init(), jnp.asarray(2.0)
            found = step(state, kl, jnp.asarray(4.0))
            expected = own.coef(own.update(state, kl, jnp.asarray(4.0)))
            assert float(own.coef(found)) == pytest.approx(float(expected), rel=1e-6)
            ends.add(round(float(expected), 6))
        assert step._cache_size() == 1 and len(ends) == 3


def test_numbers_that_make_no_sense_are_refused():
    with pytest.raises(UserError, match="horizon 0"):
        controllers.proportional(0.1, 6.0, 0)
    with pytest.raises(UserError, match="target -1"):
        controllers.lagrangian(0.1, -1, 0.1)
