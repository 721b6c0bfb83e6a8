"""Every experiment in its tiny form: saved, killed and continued, it ends the same."""

import json
import sysconfig
from pathlib import Path

import pytest

from rlhf_jax.build.tasks import text_tasks
from rlhf_jax.data import pydoc


@pytest.mark.parametrize(
    "spec, stage",
    [
        ("tldr_sft.py:tiny", "sft"),
        ("tldr_rm.py:tiny", "rm"),
        ("tldr_ppo.py:tiny+gold+reward_index", "ppo"),
        ("sentiment_ppo.py:tiny", "ppo"),
    ],
)
def test_a_killed_experiment_ends_as_an_undisturbed_one(spec, stage, tiny, continued):
    expected, found = continued(tiny(spec), stage)
    assert found == expected


def test_pydoc_is_continued_and_sums_up_what_it_found(
    tiny, continued, tmp_path, monkeypatch
):
    folder = Path(sysconfig.get_paths()["stdlib"]) / "email"
    corpus = pydoc.corpus(folder, heldout_fraction=0.4)
    monkeypatch.setattr(text_tasks, "_corpus", lambda: corpus)
    text_tasks._trained.cache_clear()
    config = tiny("pydoc_tldr.py:tiny")
    expected, found = continued(config, "pretrain")
    text_tasks._trained.cache_clear()
    assert found == expected
    summary = json.loads((tmp_path / "killed" / "summary.json").read_text())
    assert summary["perplexity"] > 1 and summary["bigram_perplexity"] > 1
    assert {"value", "ci", "pairs", "tied_pairs"} <= set(summary["rm_accuracy"])
    assert {"sft", "ppo", "diff_ci"} <= set(summary["rouge_l"])
    assert "ROUGE-L" in summary["verdict"]
