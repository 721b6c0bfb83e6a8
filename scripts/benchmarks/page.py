"""What a benchmark file says: ratios, a table for the README, a plot."""

from __future__ import annotations

import pathlib
import re
import statistics
from typing import Any

from benchmarks.work import SIZES

MARKS = ("<!-- benchmark -->", "<!-- end of benchmark -->")
PEERS = {
    "ppo": {"trl": "TRL", "tunix": "Tunix"},
    "sample": {"transformers": "`generate`"},
}
PHASES = {"rollout": "sampling", "score": "scoring", "learn": "learning"}


def entry(found: dict, size: str, kind: str, system: str) -> dict | None:
    """The measurements of one system, or None."""
    for one in found["results"]:
        if (one["size"], one["kind"], one["system"]) == (size, kind, system):
            return one
    return None


def median(one: dict, part: str = "seconds") -> float:
    """Median over the repetitions."""
    return statistics.median(x[part] for x in one["repetitions"])


def ratio(found: dict, size: str, kind: str, peer: str) -> float | None:
    """Median over rounds of the peer's seconds over ours, or None."""
    ours, other = (entry(found, size, kind, name) for name in ("rlhf_jax", peer))
    if ours is None or other is None:
        return None
    pairs = zip(other["repetitions"], ours["repetitions"], strict=True)
    return statistics.median(a["seconds"] / b["seconds"] for a, b in pairs)


def facts(found: dict, size: str) -> dict[str, Any]:
    """The numbers of one size, None where they were not measured."""
    work = SIZES[size]
    ours = {
        kind: entry(found, size, kind, "rlhf_jax")
        for kind in ("ppo", "sample", "update")
    }
    ppo, sample, update = ours.values()
    rate = work.update_flops / median(update, "update") if update else None
    return {
        "seconds": median(ppo) if ppo else None,
        "flops": work.iteration_flops / median(ppo) if ppo else None,
        "phases": {k: median(ppo, k) / median(ppo) for k in PHASES} if ppo else {},
        "tokens": work.sampled / median(sample) if sample else None,
        "update_flops": rate,
        "efficiency": rate / median(update, "product_rate") if update else None,
        "ratios": {
            label: ratio(found, size, kind, peer)
            for kind, peers in PEERS.items()
            for peer, label in peers.items()
        },
    }


def shown(value: float | None, form: str) -> str:
    """A number, or a dash where there is none."""
    return "–" if value is None else format(value, form)


def table(found: dict) -> str:
    """Markdown: a column per size."""
    sizes = [s for s in SIZES if any(r["size"] == s for r in found["results"])]
    columns = [facts(found, size) for size in sizes]

    def row(label: str, *cells: str) -> str:
        return f"| {label} | " + " | ".join(cells) + " |"

    def phases(one: dict) -> str:
        return " / ".join(f"{x:.0%}" for x in one["phases"].values()) or "–"

    def giga(value: float | None) -> str:
        return shown(None if value is None else value / 1e9, ".0f")

    lines = [
        row("", *sizes),
        "|---" * (len(sizes) + 1) + "|",
        row("PPO iteration, s", *(shown(c["seconds"], ".3g") for c in columns)),
        row(f"{' / '.join(PHASES.values())}", *(phases(c) for c in columns)),
        row("whole iteration, GFLOP/s", *(giga(c["flops"]) for c in columns)),
        row("update, GFLOP/s", *(giga(c["update_flops"]) for c in columns)),
        row(
            "of the rate of products", *(shown(c["efficiency"], ".0%") for c in columns)
        ),
        row("sampled tokens/s", *(shown(c["tokens"], ",.0f") for c in columns)),
    ]
    for kind, peers in PEERS.items():
        what = "iteration" if kind == "ppo" else "sampling"
        for label in peers.values():
            cells = [shown(c["ratios"][label], ".2f") for c in columns]
            lines.append(row(f"{what}: times as fast as {label}", *cells))
    return "\n".join(lines)


def origin(found: dict) -> str:
    """One sentence: machine, date, versions of the peers, rounds."""
    where = found["machine"]
    versions: dict[str, str] = {}
    for one in found["results"]:
        versions |= {k: v.split("+")[0] for k, v in one["versions"].items()}
    names = ("jax", "trl", "google-tunix", "transformers", "torch")
    said = ", ".join(f"{n} {versions[n]}" for n in names if n in versions)
    rounds = {r["size"]: len(r["repetitions"]) for r in found["results"]}
    counted = ", ".join(f"{n} ({size})" for size, n in rounds.items())
    return (
        f"Measured {where['date']} on {where['cores']} CPU cores ({where['cpu']}), "
        f"float32; {said}; medians over interleaved rounds: {counted}."
    )


def write(found: dict, readme: pathlib.Path, plot: pathlib.Path) -> None:
    """Replaces the marked part of the README and draws the plot."""
    body = f"{table(found)}\n\n{origin(found)}"
    text = readme.read_text(encoding="utf-8")
    block = f"{MARKS[0]}\n{body}\n{MARKS[1]}"
    pattern = re.escape(MARKS[0]) + ".*?" + re.escape(MARKS[1])
    readme.write_text(re.sub(pattern, lambda _: block, text, flags=re.DOTALL), "utf-8")
    draw(found, plot)


def draw(found: dict, path: pathlib.Path) -> None:
    """Every round's ratio to each peer, a panel per size, and the phases."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.hashsalt": "benchmark", "font.size": 9})
    import matplotlib.pyplot as plt

    sizes = [s for s in SIZES if any(r["size"] == s for r in found["results"])]
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 2.6), layout="constrained")
    labels = []
    for size in sizes:
        for kind, peers in PEERS.items():
            for peer, label in peers.items():
                ours, other = (entry(found, size, kind, x) for x in ("rlhf_jax", peer))
                if ours and other:
                    pairs = zip(other["repetitions"], ours["repetitions"], strict=True)
                    ratios = [a["seconds"] / b["seconds"] for a, b in pairs]
                    left.plot(ratios, [len(labels)] * len(ratios), "|", color="C0")
                    left.plot(statistics.median(ratios), len(labels), "o", color="C1")
                    labels.append(f"{label.strip('`')}, {size}")
    left.axvline(1, color="grey", linewidth=0.8)
    left.set(xscale="log", xlabel="times as fast as the peer", title="each round")
    left.set_yticks(range(len(labels)), labels)
    left.set_xticks([1, 2, 4, 8], ["1", "2", "4", "8"])
    left.minorticks_off()
    bottom = [0.0] * len(sizes)
    for phase, label in PHASES.items():
        shares = [facts(found, size)["phases"].get(phase, 0.0) for size in sizes]
        right.barh(sizes, shares, left=bottom, label=label)
        bottom = [a + b for a, b in zip(bottom, shares, strict=True)]
    right.set(xlabel="share of an iteration", title="phases")
    right.set_ylim(-0.5, len(sizes) + 0.1)  # room for the legend above the bars
    right.legend(loc="upper center", ncol=len(PHASES), fontsize=8)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
