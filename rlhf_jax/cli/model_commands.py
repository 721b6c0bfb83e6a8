"""The commands of trained models: sample, score, report on, export."""

from __future__ import annotations

import json
from pathlib import Path

from rlhf_jax.cli.command import Command, Options, Parser
from rlhf_jax.errors import UserError


def _generate_arguments(parser: Parser) -> None:
    parser.add_argument(
        "model", help="a stage folder such as RUN/ppo, or a Hugging Face directory"
    )
    parser.add_argument("--prompt", action="append", help="a prompt; may be repeated")
    parser.add_argument("--prompts", metavar="FILE.jsonl", help="prompts, one a line")
    parser.add_argument("--samples", type=int, default=1, help="responses per prompt")
    parser.add_argument(
        "--max-length", type=int, help="response tokens; as the run trained, or 64"
    )
    parser.add_argument("--temperature", type=float, default=1.0, help="0 is greedy")
    parser.add_argument("--top-k", type=int, help="keep the k most likely tokens")
    parser.add_argument("--top-p", type=float, help="keep this much probability")
    parser.add_argument("--seed", type=int, default=0, help="sampling seed")


def _generate(options: Options) -> int:
    from rlhf_jax.build.commands import serving
    from rlhf_jax.build.runs import runtime

    runtime.prepare()
    for record in serving.generate(options):
        print(json.dumps(record, ensure_ascii=False))
    return 0


def _score_arguments(parser: Parser) -> None:
    parser.add_argument(
        "model",
        help="a reward-model stage folder such as RUN/rm, or a Hugging Face directory",
    )
    parser.add_argument(
        "data", metavar="FILE.jsonl", help="lines with prompt, response"
    )
    parser.add_argument(
        "--tokens", action="store_true", help="also the score after each token"
    )


def _score(options: Options) -> int:
    from rlhf_jax.build.commands import serving
    from rlhf_jax.build.runs import runtime

    runtime.prepare()
    for record in serving.score(options):
        print(json.dumps(record, ensure_ascii=False))
    return 0


def _rm_report_arguments(parser: Parser) -> None:
    parser.add_argument(
        "--model",
        required=True,
        metavar="DIR",
        help="a reward-model stage folder such as RUN/rm, or a Hugging Face directory",
    )
    parser.add_argument(
        "--data",
        required=True,
        metavar="FILE.jsonl",
        help="pairs or rankings; `gold` per response and `cluster` are used if present",
    )
    parser.add_argument(
        "--workdir", required=True, metavar="DIR", help="where the report is written"
    )
    parser.add_argument(
        "--label-noise",
        type=float,
        metavar="SCALE",
        help="label = Bradley-Terry of gold / SCALE; as the labelling stage, or fitted",
    )
    parser.add_argument(
        "--reference-samples",
        metavar="FILE.jsonl",
        help="prompt, response of the reference: for out-of-distribution scores",
    )
    parser.add_argument(
        "--policy-samples",
        metavar="FILE.jsonl",
        help="prompt, response of a policy: for the drift of the score",
    )
    parser.add_argument(
        "--limit", type=int, default=0, help="read so many records; 0 for all"
    )


def _rm_report(options: Options) -> int:
    if options.limit < 0:
        raise UserError(f"--limit={options.limit} must be 0 (all) or more")
    noise = options.label_noise
    if noise is not None and not 0 <= noise < float("inf"):
        raise UserError(f"--label-noise={noise} must be a number from 0")
    from rlhf_jax.build.commands import rm_reporting
    from rlhf_jax.build.runs import runtime

    runtime.prepare()
    print(rm_reporting.report(options))
    return 0


def _export_arguments(parser: Parser) -> None:
    parser.add_argument("stage", help="a stage folder such as RUN/ppo")
    parser.add_argument("out", help="folder to write; must not exist or be empty")


def _export(options: Options) -> int:
    from rlhf_jax.build.commands import exporting
    from rlhf_jax.build.runs import runtime

    runtime.prepare()
    print(exporting.export(Path(options.stage), Path(options.out)))
    return 0


ALL = (
    Command(
        "generate",
        "Sample responses from a trained stage or a Hugging Face directory.",
        "  rlhf-jax generate runs/quickstart-seed0/ppo --prompt='w1 *w2* w3 =>'",
        _generate_arguments,
        _generate,
    ),
    Command(
        "score",
        "Score responses with a reward model.",
        "  rlhf-jax score runs/quickstart-seed0/rm responses.jsonl",
        _score_arguments,
        _score,
    ),
    Command(
        "rm-report",
        "Say how far a reward model can be trusted: accuracy, calibration, biases.",
        "  rlhf-jax rm-report --model=runs/quickstart-seed0/rm"
        " --data=runs/quickstart-seed0/label/heldout.jsonl --workdir=runs/rm_report",
        _rm_report_arguments,
        _rm_report,
    ),
    Command(
        "export",
        "Write a trained stage as a Hugging Face directory.",
        "  rlhf-jax export runs/hf_chain-seed0/ppo exported/",
        _export_arguments,
        _export,
    ),
)
