"""What compiled programs do on eight fake devices, each in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest


def holds(case):
    script = Path(__file__).parent / "sharded_programs.py"
    command = [sys.executable, str(script), case]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == f"ok {case}\n"


@pytest.mark.identity("C31")
def test_a_split_vocabulary_gives_the_logprobs_of_a_whole_one():
    """Log-probs, entropy and exact KL, and their gradients, are those of one device
    where tokens, vocabulary and width are split over eight."""
    holds("vocabulary")


def test_logits_are_computed_once_over_all_devices():
    holds("vocabulary_flops")


def test_a_split_length_halves_what_a_device_holds_of_a_step():
    holds("long_responses")


@pytest.mark.identity("C31")
def test_decoding_gathers_no_weights_and_samples_what_one_device_does():
    """Tokens and log-probs of responses are those of one device; the weights are
    gathered before the loop over tokens, or within it where the rules ask for that."""
    holds("decode")
