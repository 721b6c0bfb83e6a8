"""The memory script: what it prints, and that its promise holds."""

import json

import memory
import pytest


@pytest.fixture(scope="module")
def measured():
    return memory.compare(vocab=150_000, length=1024, batch=1, width=64)


def test_scoring_and_update_stay_below_the_naive_form(measured):
    for name in ("scoring", "update"):
        found = measured[name]
        assert found["temp_ratio"] <= 0.15
        assert found["chunked"]["peak"] < found["naive"]["peak"]
        # Above its gradients the program holds a few chunks, far below all logits.
        assert found["chunked"]["temp"] < measured["all_logits"] / 8


def test_only_the_naive_form_holds_all_logits(measured):
    for name in ("scoring", "update"):
        assert measured[name]["naive"]["holds_all_logits"]
        assert not measured[name]["chunked"]["holds_all_logits"]


def test_memory_does_not_grow_with_the_vocabulary():
    small, large = (
        memory.measure(
            memory.programs(memory.chunked, None)["scoring"],
            memory.abstract(vocab, 1024, 1, 64, "float32"),
        )["temp"]
        for vocab in (3 * 2**14, 12 * 2**14)
    )
    assert large < 1.05 * small


def test_the_command_prints_json_or_a_table(capsys, measured, monkeypatch):
    sizes = ["--vocab=3000", "--length=64", "--width=8", "--chunk_size=512"]
    memory.main([*sizes, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["vocab"] == 3000 and found["chunk_size"] == 512
    assert {"temp", "arguments", "outputs", "peak"} <= found["update"]["naive"].keys()
    monkeypatch.setattr(memory, "compare", lambda **options: measured)
    memory.main(sizes)
    printed = capsys.readouterr().out
    assert "vocabulary 150000" in printed and "[1, 1024, 150000]" in printed
