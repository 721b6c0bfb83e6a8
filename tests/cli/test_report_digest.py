"""`report` and `digest` of finished and of damaged runs."""

import json
import shutil

import pytest


@pytest.fixture
def other(finished_run, tmp_path):
    """The same run under another config."""
    folder = shutil.copytree(finished_run, tmp_path / "other")
    config = json.loads((folder / "config.json").read_text())
    config["ppo"]["kl_coef"] = 0.25
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_runs_are_laid_over_each_other_and_their_difference_is_printed(
    command, finished_run, other, tmp_path
):
    page = tmp_path / "page.html"
    code, out, _ = command("report", finished_run, other, f"--out={page}")
    assert code == 0
    assert "ppo.kl_coef" in out and "0.05" in out and "0.25" in out
    assert "ppo.batch_size" not in out
    text = page.read_text()
    assert "2 runs compared" in text and "ppo.kl_coef" in text


def test_one_run_is_reported_in_its_own_folder(command, other):
    (other / "report.html").unlink()
    code, out, _ = command("report", other)
    assert code == 0 and out.strip() == str(other / "report.html")
    assert "<svg" in (other / "report.html").read_text()


def test_damaged_lines_do_not_stop_a_report(command, other):
    (other / "metrics.jsonl").write_text("{broken\nx\n")
    (other / "summary.json").write_text("{broken")
    code, _, _ = command("report", other)
    assert code == 0
    assert "metrics.jsonl, line 1" in (other / "report.html").read_text()


def test_a_damaged_or_missing_config_is_named_and_no_page_is_written(
    refused, finished_run, other, tmp_path
):
    page = tmp_path / "page.html"
    (other / "config.json").write_text("{broken")
    for runs in ([other], [finished_run, other], [other, finished_run]):
        message = refused("report", *runs, f"--out={page}")
        assert str(other / "config.json") in message and "damaged" in message
    (other / "config.json").write_text('{"model_type": "llama"}')
    assert "names no stages" in refused("report", other, f"--out={page}")
    (other / "config.json").unlink()
    assert f"{other} is not a run" in refused("report", other, f"--out={page}")
    assert not page.exists()


def test_a_report_that_cannot_be_written_is_named(refused, finished_run, tmp_path):
    assert str(tmp_path) in refused("report", finished_run, f"--out={tmp_path}")


def test_a_digest_has_one_hash_per_part(command, finished_run, other):
    code, out, _ = command("digest", finished_run)
    assert code == 0
    parts = {line[66:]: line[:64] for line in out.splitlines()}
    assert set(parts) == {
        "parameters",
        "optimizer",
        "controllers",
        "data position",
        "metrics",
        "samples",
    }
    rows = (other / "metrics.jsonl").read_text().splitlines()
    (other / "metrics.jsonl").write_text("\n".join(rows[:-1]) + "\n")
    _, changed, _ = command("digest", other)
    assert {line[66:]: line[:64] for line in changed.splitlines()} != parts
    assert out.splitlines()[:4] == changed.splitlines()[:4]


def test_a_folder_without_checkpoints_has_no_digest(refused, other):
    for stage in ("sft", "rm", "ppo"):
        shutil.rmtree(other / stage / "checkpoints")
    assert "no checkpoint" in refused("digest", other)


@pytest.mark.parametrize("rtol", ["-1", "nan", "inf"])
def test_a_tolerance_is_a_number_from_zero(refused, tmp_path, rtol):
    (tmp_path / "config.json").write_text("{}")
    arguments = [tmp_path, f"--against={tmp_path}", f"--rtol={rtol}"]
    assert f"--rtol={rtol}" in refused("digest", *arguments)


def test_two_runs_are_compared_up_to_a_tolerance(command, refused, finished_run, other):
    """Exit code 1 and the part by name where they are further apart."""
    code, out, _ = command("digest", other, f"--against={finished_run}")
    assert code == 0 and out.count("same") == 6
    path = other / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[-1] |= {"eval/gold": rows[-1].get("eval/gold", 0.0) + 1e-3}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    against = f"--against={finished_run}"
    code, out, _ = command("digest", other, against, "--rtol=1e-4")
    assert code == 1 and [x for x in out.splitlines() if "DIFFERS" in x] == [
        line for line in out.splitlines() if "metrics" in line
    ]
    assert "--against" in refused("digest", other, "--rtol=1e-4")
