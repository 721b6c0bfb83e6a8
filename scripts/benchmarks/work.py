"""What is timed, and how a worker is spoken to.

Plain Python without dependencies: every peer imports it in an environment of its own.
A worker builds everything, says what it is, and then answers each line on its standard
input with the seconds that one repetition took.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any


@dataclasses.dataclass(frozen=True)
class Work:
    """One PPO iteration on random Llama-style weights in float32.

    `batch` prompts of `prompt` tokens, `response` sampled tokens each without a stop
    token, log-probs of policy and reference, values and scores of a reward model, then
    `epochs` passes of one minibatch over policy and value network with AdamW. Value
    network, reward model and reference are separate and of the policy's size.
    """

    layers: int
    width: int
    mlp: int
    heads: int
    vocab: int
    batch: int
    prompt: int
    response: int
    epochs: int = 4

    def tokens(self) -> list[list[int]]:
        """The prompts; ids 0 to 3 are left to padding and markers."""
        return [
            [4 + (i * 7 + j) % (self.vocab - 4) for j in range(self.prompt)]
            for i in range(self.batch)
        ]

    @property
    def sampled(self) -> int:
        """Tokens sampled in one iteration."""
        return self.batch * self.response

    @property
    def forward_flops(self) -> int:
        """Operations of one pass over prompts and responses, without a language head:
        2 for each weight and token, and attention over all pairs of columns."""
        length = self.prompt + self.response
        weights = 4 * self.width**2 + 3 * self.width * self.mlp
        attention = 4 * self.width * length
        return self.layers * self.batch * length * (2 * weights + attention)

    @property
    def head_flops(self) -> int:
        """Operations of the language head on the responses."""
        return 2 * self.sampled * self.width * self.vocab

    @property
    def update_flops(self) -> int:
        """All epochs: forward and twice as much backward, for both networks."""
        return 3 * self.epochs * (2 * self.forward_flops + self.head_flops)

    @property
    def iteration_flops(self) -> int:
        """Sampling, four passes (policy, reference, value, reward model), updates."""
        sampling = self.forward_flops + self.head_flops
        passes = 4 * self.forward_flops + 2 * self.head_flops
        return sampling + passes + self.update_flops


SIZES = {
    "tiny": Work(2, 64, 256, 4, 64, batch=64, prompt=16, response=32),
    "small": Work(4, 256, 1024, 8, 4096, batch=16, prompt=32, response=64),
    "medium": Work(8, 512, 2048, 8, 8192, batch=16, prompt=32, response=64),
}


def size_asked(description: str | None) -> Work:
    """The work of the size that the command line names."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("size", choices=tuple(SIZES))
    return SIZES[parser.parse_args().size]


def asked() -> tuple[str, Work, int]:
    """From the command line: what to time, the work, the most repetitions."""
    kind, work, most = sys.argv[1:]
    return kind, Work(**json.loads(work)), int(most)


class Channel:
    """A worker's side: answers on the real standard output, whatever libraries print
    there, which goes to the log instead."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._since: float | None = None

    def _say(self, answer: dict[str, Any]) -> None:
        self._answers.write(json.dumps(answer) + "\n")
        self._answers.flush()

    def ready(self, *packages: str, **facts: Any) -> None:
        """Once everything is built."""
        versions = {name: version(name) for name in packages}
        python = sys.version.split()[0]
        self._say({"python": python, "versions": versions, **facts})

    def lap(self, **parts: float) -> None:
        """Answers for the repetition that ends here and waits for the next question."""
        if self._since is not None:
            self._say({"seconds": time.perf_counter() - self._since, **parts})
        if not sys.stdin.readline():
            sys.exit(0)
        self._since = time.perf_counter()

    def serve(self, once: Callable[[], dict[str, float]]) -> None:
        """`lap` around a function that does the work and returns parts of its time."""
        parts: dict[str, float] = {}
        while True:
            self.lap(**parts)
            parts = once()
