"""The two forms of over-optimization curves."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_jax.errors import UserError
from rlhf_jax.worlds import gao

D = np.linspace(0.0, 3.0, 12)
FORMS = {
    "best_of_n": lambda d, a, b: d * (a - b * d),
    "rl": lambda d, a, b: np.where(d > 0, d * (a - b * np.log(np.maximum(d, 1e-9))), 0),
}


@pytest.mark.parametrize("form", gao.FORMS)
@given(alpha=st.floats(-3, 3), beta=st.floats(-3, 3))
def test_a_curve_of_the_form_gives_its_coefficients(form, alpha, beta):
    found = gao.fit(D, FORMS[form](D, alpha, beta), form)
    assert (found.alpha, found.beta) == pytest.approx((alpha, beta), abs=1e-8)
    np.testing.assert_allclose(found.at(D), FORMS[form](D, alpha, beta), atol=1e-7)


@pytest.mark.parametrize("form", gao.FORMS)
def test_the_peak_is_where_the_curve_is_highest(form):
    fine = np.linspace(0.0, 6.0, 60_001)
    found = gao.fit(D, FORMS[form](D, 1.3, 0.6), form)
    assert found.peak == pytest.approx(fine[found.at(fine).argmax()], abs=2e-4)
    assert gao.fit(D, FORMS[form](D, 1.0, -0.1), form).peak == np.inf


def test_the_other_form_explains_less():
    bent = FORMS["rl"](D, 1.0, 0.5)
    assert gao.fit(D, bent, "rl").r2 == pytest.approx(1.0)
    assert gao.fit(D, bent, "best_of_n").r2 < 0.999


def test_r2_is_the_share_of_the_variance_around_the_mean():
    y = FORMS["rl"](D, 1.0, 0.5) + np.random.default_rng(0).normal(size=12)
    found = gao.fit(D, y, "rl")
    left = np.sum((y - found.at(D)) ** 2)
    assert found.r2 == pytest.approx(1 - left / np.sum((y - y.mean()) ** 2))


@pytest.mark.parametrize(
    ("distance", "form", "message"),
    [
        (D, "tilt", "must be one of"),
        (np.array([0.0, 1.0, 2.0]), "rl", "needs 3 points"),
    ],
)
def test_what_cannot_be_fitted_is_refused(distance, form, message):
    with pytest.raises(UserError, match=message):
        gao.fit(distance, distance, form)
