"""Plans of the recipes for pods, and the lines in their headers that say what came out.

    python scripts/plan_all.py --workdir=plans             # plan, compare with headers
    python scripts/plan_all.py --workdir=plans --write     # plan, write into headers
    python scripts/plan_all.py --only=qwen3_8b_grpo        # some of them

A plan that is in the work folder already is not made again. Exits with 1 where a recipe
does not fit or its header says something else: memory or time off by more than 10 %.
"""

import argparse
import json
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
SIZES = ("1b", "2.8b", "6.9b")
RECIPES = (
    *(f"tldr_{stage}.py:{size}" for stage in ("sft", "rm", "ppo") for size in SIZES),
    "llama_8b_ppo.py",
    "qwen3_8b_grpo.py",
)
TOPOLOGIES = ("v5e:16x16", "v5p:4x4x4")
TOLERANCE = 0.1
TITLE = (
    "Plan: (`scripts/plan_all.sh`: memory of the fullest device, roofline of a step)"
)


def plan(recipe: str, topology: str, folder: pathlib.Path) -> dict:
    """Makes one plan in a process of its own, or reads it."""
    workdir = folder / f"{recipe.replace('.py', '')}-{topology}".replace(":", "-")
    if not (workdir / "plan.json").is_file():
        command = [sys.executable, "-m", "rlhf_jax", "plan"]
        command += [f"--config=experiments/{recipe}", f"--topology={topology}"]
        command += [f"--workdir={workdir}"]
        done = subprocess.run(command, cwd=ROOT)
        if done.returncode not in (0, 3):
            raise SystemExit(done.returncode)
    return json.loads((workdir / "plan.json").read_text())


def line(recipe: str, found: dict) -> str:
    """What a header says of a plan."""
    _, _, variant = recipe.partition(":")
    memory = (
        f"{found['resident_bytes'] / 2**30:.2f} of {found['hbm_bytes'] / 2**30:.2f}"
    )
    steps = ", ".join(
        f"{stage['name']} {stage['seconds_per_step']:.3g} s"
        for stage in found["stages"]
        if stage["seconds_per_step"] is not None
    )
    where = f"{variant} on {found['topology']}" if variant else found["topology"]
    return f"  {where}: {memory} GiB; {steps}"


def agrees(written: str, found: str) -> bool:
    """Whether two lines say the same, numbers within the tolerance."""
    number = re.compile(r"\d+\.?\d*(?:e-?\d+)?")
    if number.sub("#", written) != number.sub("#", found):
        return False
    pairs = zip(number.findall(written), number.findall(found), strict=True)
    return all(
        abs(float(a) - float(b)) <= TOLERANCE * max(float(a), float(b))
        for a, b in pairs
    )


def said(recipe: str, found: str) -> str | None:
    """The line of a header that speaks of the same variant and topology."""
    text = (ROOT / "experiments" / recipe.partition(":")[0]).read_text()
    start = found.split(" GiB")[0].rsplit(":", 1)[0] + ":"
    return next((x for x in text.splitlines() if x.startswith(start)), None)


def write(recipe: str, found: str) -> None:
    """Puts a line into a header, in the place of the one that was there."""
    path = ROOT / "experiments" / recipe.partition(":")[0]
    old, text = said(recipe, found), path.read_text()
    if old is not None:
        path.write_text(text.replace(old, found))
        return
    if TITLE not in text:
        head, rest = text.split("\n\n", 2)[0:2], text.split("\n\n", 2)[2]
        text = f"{head[0]}\n\n{head[1]}\n{TITLE}\n\n{rest}"
    before, after = text.split(TITLE, 1)
    lines, blank, rest = after.partition("\n\n")
    path.write_text(f"{before}{TITLE}{lines}\n{found}{blank}{rest}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=pathlib.Path, default=ROOT / "runs" / "plans")
    parser.add_argument("--only", default="", help="part of the recipes' names")
    parser.add_argument("--write", action="store_true", help="write into the headers")
    options = parser.parse_args()
    good = True
    for recipe in (r for r in RECIPES if options.only in r):
        for topology in TOPOLOGIES:
            made = plan(recipe, topology, options.workdir)
            found = line(recipe, made)
            if options.write:
                write(recipe, found)
            same = agrees(said(recipe, found) or "", found)
            good = good and same and made["fits"]
            verdict = "" if same else "   (the header says something else)"
            print(
                f"{recipe}{found}{'' if made['fits'] else '   DOES NOT FIT'}{verdict}"
            )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
