"""The commands of data: what a file of feedback says."""

from __future__ import annotations

from rlhf_jax.cli.command import Command, Options, Parser


def _feedback_report_arguments(parser: Parser) -> None:
    parser.add_argument(
        "--data",
        required=True,
        metavar="FILE.jsonl",
        help="feedback records, pairs, rankings or labeled responses",
    )
    parser.add_argument(
        "--layout",
        default="auto",
        metavar="NAME",
        help="how lines are understood, as config.task.layout: auto, feedback,"
        " ultrafeedback, ...",
    )
    parser.add_argument(
        "--workdir", metavar="DIR", help="where feedback_report.json is written"
    )


def _feedback_report(options: Options) -> int:
    from rlhf_jax.build.commands import feedback_reporting

    print(feedback_reporting.report(options))
    return 0


ALL = (
    Command(
        "feedback-report",
        "Say what a file of feedback holds: verdicts, contradictions, agreement.",
        "  rlhf-jax feedback-report --data=feedback.jsonl\n"
        "  rlhf-jax feedback-report --data=hs2.jsonl --layout=helpsteer2"
        " --workdir=runs/feedback",
        _feedback_report_arguments,
        _feedback_report,
    ),
)
