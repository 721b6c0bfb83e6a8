#!/usr/bin/env python3
"""Every relative of PPO in E64: how far it ends from where it should.

    python scripts/relatives.py --workdir=runs/relatives [--write]

Each file of `experiments/relatives` is trained in its variants of E64 and enumerated;
finished runs are not run again. Prints the table; `--write` puts it, and the list of
refused combinations, into `docs/relatives.md`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / "docs" / "relatives.md"
HEAD = "| relative | tv to its target | target | j | best j |\n|---|---|---|---|---|"


def variants() -> list[tuple[str, str]]:
    """(file, variant) of all that run in E64."""
    found = []
    for path in sorted((ROOT / "experiments" / "relatives").glob("*.py")):
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        names = [name for name in module.VARIANTS if name.startswith("e64")]
        found += [(path.stem, name) for name in names]
    return found


def row(name: str, variant: str, workdir: pathlib.Path) -> str:
    """Runs one relative, or finds it done; its line of the table."""
    folder = workdir / f"{name}-{variant}"
    command = [sys.executable, "-m", "rlhf_jax", "train", f"--workdir={folder}"]
    command += [f"--config=experiments/relatives/{name}.py:{variant}"]
    command += ["--config.logging.progress=False", "--config.logging.report=False"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if ended.returncode:
        raise SystemExit(
            f"{name}:{variant} ends with {ended.returncode}\n{ended.stderr}"
        )
    found = json.loads((folder / "summary.json").read_text())
    label = f"`{name}`" + ("" if variant == "e64" else f" `:{variant}`")
    numbers = f"{found['j']:.3f} | {found['j_star']:.3f}"
    return f"| {label} | {found['tv']:.3f} | {found['target']} | {numbers} |"


def replaced(page: str, block: str, text: str) -> str:
    """The page with what stands between the marks of a block exchanged."""
    pattern = rf"(<!-- generated: {block} -->\n).*?(<!-- end -->)"
    return re.sub(pattern, lambda m: f"{m[1]}{text}\n{m[2]}", page, flags=re.DOTALL)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=pathlib.Path, default="runs/relatives")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    workdir = options.workdir.absolute()
    rows = []
    for name, variant in variants():
        rows.append(row(name, variant, workdir))
        print(rows[-1], flush=True)
    if options.write:
        sys.path.insert(0, str(ROOT))
        from rlhf_jax.build.configs import combinations

        page = replaced(PAGE.read_text(), "ends", "\n".join([HEAD, *rows]))
        PAGE.write_text(replaced(page, "refused", combinations.table()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
