"""All plots of a stage, in reading order."""

from __future__ import annotations

from collections.abc import Sequence

from rlhf_jax.studies import axes, figures, frontier, panels, runs, svg, timing

SMALL = axes.Frame(width=240, height=136, left=52, right=12, top=26, bottom=22)


def stages(found: Sequence[runs.Run]) -> list[str]:
    """All stages; those that train a policy first, else in the order written."""
    names = list(dict.fromkeys(name for run in found for name in run.stages))
    return sorted(names, key=lambda name: not figures.trains_policy(found, name))


def plots(found: Sequence[runs.Run], stage: str) -> list[str]:
    """Every figure of a stage that has data, in reading order."""
    names = figures.names_of(found, stage)
    wanted = list(panels.PANELS)
    place = [panel.title for panel in wanted].index("Responses cut off") + 1
    wanted[place:place] = panels.losses(names)
    shown = [figures.panel_figure(found, stage, panel) for panel in wanted]
    shown[1:1] = [frontier.figure(found, stage, root) for root in (False, True)]
    shown.append(timing.figure(found, stage))
    return [text for text in shown if text]


def more_plots(found: Sequence[runs.Run], stage: str) -> list[str]:
    """Small multiples of every metric that has no panel of its own."""
    names = figures.names_of(found, stage)
    rest = sorted(set(names) - panels.shown(names))
    return [_small(found, stage, name) for name in rest]


def _small(found: Sequence[runs.Run], stage: str, name: str) -> str:
    series = []
    for index, run in enumerate(found):
        curves = run.stages.get(stage, {})
        if name in curves:
            one = figures.series_of(curves, name, run.name)
            series.append(one._replace(color=figures.color_of(index), dots=False))
    plot = svg.lines(series, x_label="", y_label=name, frame=SMALL)
    return f'<figure class="small">{plot}</figure>'
