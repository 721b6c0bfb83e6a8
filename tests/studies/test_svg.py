"""Plots: axes, gaps, thinning."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from rlhf_jax.studies import axes, points, svg, thinning


def plot(*series, **kwargs):
    return svg.lines(series, x_label="step", y_label="y [unit]", **kwargs)


def line(y, x=None, **kwargs):
    y = np.asarray(y, np.float64)
    x = np.arange(len(y), dtype=np.float64) if x is None else x
    return svg.Series("a", x, y, **kwargs)


@pytest.mark.parametrize(
    "y",
    [[], [1.0], [2.0, 2.0, 2.0], [np.nan], [1.0, np.nan, 3.0, np.inf], [1e-9, 2e-9]],
    ids=["none", "one", "flat", "nan", "gaps", "tiny"],
)
def test_every_input_gives_well_formed_svg_inside_its_frame(y):
    text = plot(line(y))
    root = ElementTree.fromstring(text)
    assert "nan" not in re.sub(r'data-y="[^"]*"', "", text)
    for circle in root.iter("circle"):
        assert 0 <= float(circle.get("cx", "-1")) <= 380
        assert 0 <= float(circle.get("cy", "-1")) <= 220


def test_axes_carry_labels_with_units():
    text = plot(line([1.0, 2.0]))
    assert "y [unit]" in text and ">step<" in text


def test_a_gap_splits_the_line_and_is_marked():
    text = plot(line([1.0, 2.0, np.nan, 1.0, 2.0]))
    assert text.count('class="line"') == 2
    assert text.count('class="bad"') == 1


def test_a_lone_point_between_gaps_is_seen():
    text = plot(line([1.0, np.nan, 2.0, np.nan]))
    assert text.count("<circle") == 2


def test_nothing_finite_is_said():
    assert "no finite value" in plot(line([np.nan, np.nan]))
    assert "no finite value" in plot()


def test_labels_are_escaped():
    text = plot(line([1.0, 2.0])._replace(label='<b>"&'))
    assert "<b>" not in text
    ElementTree.fromstring(text)


def test_thinning_keeps_ends_spikes_and_gaps():
    y = np.zeros(10_000)
    y[[1234, 7777]] = 5.0, -5.0
    y[4321] = np.nan
    kept = thinning.kept(y)
    assert len(kept) <= 1.6 * thinning.POINTS
    assert {0, 1234, 4321, 7777, 9999} <= set(kept.tolist())
    assert np.all(np.diff(kept) > 0)


def test_few_points_are_not_thinned():
    np.testing.assert_array_equal(thinning.kept(np.zeros(7)), np.arange(7))


def test_bucket_means_keep_the_total():
    rng = np.random.default_rng(0)
    y = rng.normal(size=1000)
    x, (means,) = thinning.bucket_means(np.arange(1000.0), [y], 100)
    assert len(x) == 100
    assert means.sum() * 10 == pytest.approx(y.sum())


def test_many_points_stay_small():
    rng = np.random.default_rng(0)
    assert len(plot(line(rng.normal(size=20_000)))) < 40_000


def test_a_long_line_gets_its_running_mean_and_a_short_one_does_not():
    assert svg.smoothed(line(np.zeros(100))) is None
    smooth = svg.smoothed(line(np.tile([0.0, 1.0], 500)))
    assert smooth is not None
    np.testing.assert_allclose(smooth.y, 0.5, atol=0.05)


@pytest.mark.parametrize(
    ("low", "high", "whole"),
    [(0, 1, False), (-3, 17, False), (0, 3, True), (1e-7, 3e-7, False), (5, 5, False)],
)
def test_ticks_are_round_and_inside(low, high, whole):
    found = axes.ticks(low, high, 4, whole)
    assert 1 <= len(found) <= 7
    assert all(low - 1e-12 <= tick <= high + 1e-12 for tick in found)
    if whole:
        assert all(tick == int(tick) for tick in found)


def test_root_axis_maps_squares_evenly():
    axis = axes.Axis(0.0, 16.0, 0.0, 100.0, root=True)
    assert [axis.at(v) for v in (0.0, 1.0, 4.0, 16.0)] == [0.0, 25.0, 50.0, 100.0]
    marks = [points.Mark("a", 9.0, 1.0, x_error=20.0)]
    ElementTree.fromstring(plot(line([0.0, 1.0]), root_x=True, marks=marks))


def test_zero_stays_the_foot_of_the_axis():
    assert axes.limits([np.asarray([0.0, 1.0])], 0.1) == (0.0, 1.1)
    assert axes.limits([np.asarray([])], 0.1) == (0.0, 1.0)


def test_stacked_layers_add_up():
    x = np.arange(3.0)
    layers = [("a", np.ones(3), "c0"), ("b", np.asarray([1.0, np.nan, 2.0]), "c1")]
    text = svg.stacked(x, layers, x_label="step", y_label="s")
    root = ElementTree.fromstring(text)
    assert [g.get("data-y") for g in root.iter("g")] == ["1,1,1", "1,0,2"]
    ElementTree.fromstring(
        svg.stacked(x[:1], layers_of(layers, 1), x_label="", y_label="")
    )


def layers_of(layers, count):
    return [(label, y[:count], color) for label, y, color in layers]


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([4.715, 4.72, 4.725], ["4.715", "4.720", "4.725"]),
        ([-2.5, 0.0, 2.5], ["−2.5", "0.0", "2.5"]),
        ([112.5, 113.0], ["112.5", "113.0"]),
        ([0.0, 5000.0], ["0", "5,000"]),
        ([0.0, 2e-6], ["0", "2e−6"]),
        ([3.0], ["3"]),
    ],
)
def test_no_two_ticks_look_alike(values, texts):
    assert axes.tick_texts(values) == texts
