"""The quickstart over several seeds, against what it promises.

    python scripts/seeds.py --seeds=20 --workdir=runs/seeds

Each seed is a run of its own in `<workdir>/seed<n>`; finished ones are not run again.
Two things must hold: the policy gains at least half a standard deviation of gold over
the fine-tuned one, and the reward model goes at least 80 % of the way from chance to
the ceiling that label noise leaves. Prints a table and exits with 1 where fewer than
90 % of the seeds keep both.
"""

import argparse
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
GAIN, SHARE, MOST_MISSED = 0.5, 0.8, 0.1


def run(seed: int, folder: pathlib.Path, config: str) -> dict:
    """Runs or continues one seed and returns its summary."""
    command = [sys.executable, "-m", "rlhf_jax", "train", f"--config={config}"]
    command += [f"--config.seed={seed}", f"--workdir={folder}"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return json.loads((folder / "summary.json").read_text())


def judged(summary: dict) -> dict:
    """Gold gain in standard deviations, reward model's share of the way, seconds."""
    table, model = summary["table"], summary["reward_model"]
    gain = table["ppo"]["gold"]["mean"] - table["sft"]["gold"]["mean"]
    return {
        "gain": gain / summary["gold_sd_sft"],
        "share": (model["accuracy"] - 0.5) / (model["ceiling"] - 0.5),
        "ceiling": model["ceiling"],
        "kl": table["ppo"]["kl"]["mean"],
        "seconds": sum(summary["seconds_by_stage"].values()),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--workdir", type=pathlib.Path, default="runs/seeds")
    parser.add_argument("--config", default="experiments/quickstart.py")
    options = parser.parse_args()
    print("seed  gain (sd)  share of ceiling  ceiling  KL (nats)  seconds  kept")
    missed = 0
    for seed in range(options.first, options.first + options.seeds):
        folder = options.workdir.absolute() / f"seed{seed}"
        found = judged(run(seed, folder, options.config))
        kept = found["gain"] >= GAIN and found["share"] >= SHARE
        missed += not kept
        print(
            f"{seed:4d}  {found['gain']:9.2f}  {found['share']:16.2f}"
            f"  {found['ceiling']:7.3f}  {found['kl']:9.2f}  {found['seconds']:7.0f}"
            f"  {'yes' if kept else 'NO'}",
            flush=True,
        )
    print(f"{options.seeds - missed} of {options.seeds} seeds keep both promises")
    return int(missed > MOST_MISSED * options.seeds)


if __name__ == "__main__":
    sys.exit(main())
