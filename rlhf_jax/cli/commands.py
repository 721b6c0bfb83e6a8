"""The commands: each a name, a line of summary, examples, arguments and a function.

Heavy imports happen inside the functions, so that `--help` answers at once.
"""

from __future__ import annotations

import json
from pathlib import Path

from rlhf_jax.cli import data_commands, model_commands, plan_command
from rlhf_jax.cli.command import Command, Options, Parser
from rlhf_jax.errors import UserError


def _config_arguments(parser: Parser) -> None:
    parser.add_argument(
        "--config",
        required=True,
        metavar="FILE.py[:VARIANT]",
        help="experiment file; set its keys with --config.KEY=VALUE",
    )


def _train_arguments(parser: Parser) -> None:
    _config_arguments(parser)
    parser.add_argument(
        "--workdir", metavar="DIR", help="where everything is written and resumed from"
    )


def _load(options: Options):  # noqa: ANN202 - ConfigDict, imported lazily
    from rlhf_jax.build.configs import loading

    config = loading.load(options.config)
    loading.override(config, options.settings)
    return config


def _workdir(options: Options, seed: object) -> Path:
    """The given folder, or one that carries the experiment's name and seed."""
    if options.workdir is not None and not options.workdir.strip():
        raise UserError("--workdir is empty; name a folder, or leave it out")
    if options.workdir:
        path = Path(options.workdir)
    else:
        file, _, variant = options.config.partition(":")
        parts = [Path(file).stem, variant, "" if seed is None else f"seed{seed}"]
        path = Path("runs") / "-".join(part for part in parts if part)
    return path


def _train(options: Options) -> int:
    config = _load(options)
    from rlhf_jax.build import experiment
    from rlhf_jax.build.runs import claiming, runtime

    workdir = _workdir(options, config.get("seed", 0))
    claiming.check_folder(workdir)
    runtime.prepare()
    return experiment.run(config, workdir)


def _ablate_arguments(parser: Parser) -> None:
    _train_arguments(parser)
    parser.add_argument(
        "--pack",
        choices=("none", "vmap"),
        default="none",
        help="vmap: the seeds of a cell as one program, for accelerators",
    )


def _ablate(options: Options) -> int:
    config = _load(options)
    from rlhf_jax.build.commands import ablating
    from rlhf_jax.build.runs import runtime

    runtime.prepare()
    return ablating.ablate(config, _workdir(options, None), options.pack == "vmap")


def _reproduce_arguments(parser: Parser) -> None:
    parser.add_argument(
        "names", nargs="*", metavar="CLAIM", help="ids of claims, or of families: R1"
    )
    parser.add_argument("--list", action="store_true", help="say which claims exist")
    parser.add_argument(
        "--suite", choices=("smoke", "nightly", "release"), help="all claims of a suite"
    )
    parser.add_argument(
        "--claims",
        metavar="DIR",
        default="experiments/claims",
        help="folder of claim files",
    )
    parser.add_argument(
        "--workdir",
        metavar="DIR",
        default="runs/reproduce",
        help="where measurements are kept and resumed from",
    )


def _reproduce(options: Options) -> int:
    from rlhf_jax.build.commands import reproducing
    from rlhf_jax.build.runs import runtime

    runtime.prepare()
    chosen = tuple(options.names), options.suite, Path(options.claims)
    if options.list:
        print(reproducing.listing(*chosen))
        return 0
    return reproducing.reproduce(*chosen, Path(options.workdir))


def _check_arguments(parser: Parser) -> None:
    _config_arguments(parser)
    parser.add_argument(
        "--topology", metavar="KIND:SHAPE", help="of a pod that is not here: v5e:16x16"
    )


def _check(options: Options) -> int:
    config = _load(options)
    from rlhf_jax.build.commands import checking
    from rlhf_jax.build.plans import planning
    from rlhf_jax.build.runs import runtime
    from rlhf_jax.planning import topology

    if options.topology is None:
        runtime.prepare()
        print(checking.describe(config))
    else:
        runtime.prepare_to_compile()
        devices = topology(options.topology).devices
        print(checking.describe(planning.without_files(config), devices))
    return 0


def _report_arguments(parser: Parser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help="work folders of runs")
    parser.add_argument("--out", help="file to write; RUN/report.html for one run")


def _check_run(folder: Path) -> None:
    config = folder / "config.json"
    if not config.is_file():
        raise UserError(f"{folder} is not a run: it has no config.json")
    try:
        found = json.loads(config.read_text())
    except ValueError:
        return  # `report` and `digest` say that it is damaged
    if not isinstance(found, dict) or "stages" not in found:
        raise UserError(f"{folder} is not a run: its config.json names no stages")


def _report(options: Options) -> int:
    from rlhf_jax.studies import report

    runs = [Path(run) for run in options.runs]
    for run in runs:
        _check_run(run)
    if len(runs) > 1:
        print(report.difference(runs))
    default = runs[0] / "report.html" if len(runs) == 1 else Path("report.html")
    print(report.write(runs, Path(options.out) if options.out else default))
    return 0


def _digest_arguments(parser: Parser) -> None:
    parser.add_argument("workdir", help="work folder of a run")
    parser.add_argument("--against", help="another run: compare instead of hashing")
    parser.add_argument(
        "--rtol", type=float, help="with --against: largest difference (default 0)"
    )


def _digest(options: Options) -> int:
    from rlhf_jax import training
    from rlhf_jax.build.runs import runtime

    runtime.prepare()
    workdir = Path(options.workdir)
    if options.rtol is not None and not 0 <= options.rtol < float("inf"):
        raise UserError(f"--rtol={options.rtol} must be a number from 0")
    _check_run(workdir)
    if options.against is not None:
        return _compare(workdir, Path(options.against), options.rtol or 0.0)
    if options.rtol is not None:
        raise UserError("--rtol compares two runs; name the other with --against=RUN")
    for part, value in training.digest(workdir).items():
        print(f"{value}  {part}")
    return 0


def _compare(workdir: Path, other: Path, rtol: float) -> int:
    """One line per part; exit code 1 where one of them is further apart than `rtol`."""
    from rlhf_jax import training

    if not (other / "config.json").is_file():
        raise UserError(f"{other} is not a run: it has no config.json")
    found = training.gaps(workdir, other)
    for part, gap in found.items():
        word = "same" if gap.size <= rtol else "DIFFERS"
        print(
            f"{word:<8}{gap.size:.2e}  {part}" + (f"  ({gap.where})" * (gap.size > 0))
        )
    return int(any(gap.size > rtol for gap in found.values()))


ALL = (
    Command(
        "train",
        "Run an experiment, or continue it where it stopped.",
        "  rlhf-jax train --config=experiments/quickstart.py\n"
        "  rlhf-jax train --config=experiments/quickstart.py --config.seed=3"
        " --config.ppo.kl_coef=0.1 --workdir=runs/kl",
        _train_arguments,
        _train,
    ),
    Command(
        "check",
        "Build everything from shapes alone: config, batch arithmetic, memory.",
        "  rlhf-jax check --config=experiments/quickstart.py\n"
        "  rlhf-jax check --config=experiments/hf_chain.py --config.model.path=DIR",
        _check_arguments,
        _check,
    ),
    Command(
        "ablate",
        "Run a study: cells of a config under paired seeds, with intervals.",
        "  rlhf-jax ablate --config=experiments/ablations/ppo_terms.py"
        " --workdir=runs/ppo_terms",
        _ablate_arguments,
        _ablate,
    ),
    Command(
        "reproduce",
        "Try claims of papers and say which hold.",
        "  rlhf-jax reproduce --list\n  rlhf-jax reproduce --suite=smoke\n"
        "  rlhf-jax reproduce R5 --workdir=runs/r5",
        _reproduce_arguments,
        _reproduce,
    ),
    plan_command.PLAN,
    *model_commands.ALL,
    *data_commands.ALL,
    Command(
        "report",
        "Write the report page of a run, or overlay several and show differences.",
        "  rlhf-jax report runs/a runs/b --out=compare.html",
        _report_arguments,
        _report,
    ),
    Command(
        "digest",
        "Print one hash per part of a run: two equal runs print the same.",
        "  rlhf-jax digest runs/quickstart-seed0\n"
        "  rlhf-jax digest runs/a --against=runs/b --rtol=1e-4",
        _digest_arguments,
        _digest,
    ),
)
