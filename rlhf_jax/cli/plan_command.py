"""`plan`: what an experiment will need on a pod, before there is one."""

from __future__ import annotations

from pathlib import Path

from rlhf_jax.cli.command import Command, Options, Parser

DOES_NOT_FIT = 3
"""Exit code where the plan does not fit into the memory of the devices."""


def _arguments(parser: Parser) -> None:
    parser.add_argument(
        "--config",
        required=True,
        metavar="FILE.py[:VARIANT]",
        help="experiment file; set its keys with --config.KEY=VALUE",
    )
    parser.add_argument(
        "--topology",
        required=True,
        metavar="KIND:SHAPE",
        help="of one slice: v5e:16x16, v5p:4x4x4, v6e:8x8, h100:8, cpu:8 ...",
    )
    parser.add_argument(
        "--slices", type=int, default=1, metavar="N", help="slices of a multi-slice pod"
    )
    parser.add_argument(
        "--workdir", required=True, metavar="DIR", help="where plan.json is written"
    )
    parser.add_argument(
        "--dump-hlo", metavar="DIR", help="write the optimized HLO of every program"
    )


def _plan(options: Options) -> int:
    from rlhf_jax.build.configs import loading
    from rlhf_jax.build.plans import plan_advice, planning
    from rlhf_jax.build.runs import runtime
    from rlhf_jax.planning import topology

    config = loading.load(options.config)
    loading.override(config, options.settings)
    runtime.prepare_to_compile()
    found = topology(options.topology, options.slices)
    workdir = Path(options.workdir)
    dump = Path(options.dump_hlo) if options.dump_hlo else None
    result = planning.plan(config, options.config, found, workdir, dump=dump)
    print(plan_advice.table(result))
    return 0 if result["fits"] else DOES_NOT_FIT


PLAN = Command(
    "plan",
    "Compile an experiment for a pod that is not here: memory, time, what limits it.",
    "  rlhf-jax plan --config=experiments/llama_8b_ppo.py --topology=v5p:4x4x4"
    " --workdir=plans/llama\n"
    "  rlhf-jax plan --config=experiments/quickstart.py --topology=cpu:8"
    " --config.mesh.data=8 --workdir=plans/quickstart",
    _arguments,
    _plan,
)
