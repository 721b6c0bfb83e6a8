"""What the launchers for pods and clusters would do."""

import pathlib
import shlex
import subprocess

import pytest

SCRIPTS = pathlib.Path(__file__).parents[1] / "scripts"
SETTING = "--config.ppo.terms=a, b"
TRAIN = ["train", "--config=x.py", SETTING]


def dry_run(script, *options, command=TRAIN):
    """Exit code, the commands split as a shell would, stderr."""
    given = ["bash", str(SCRIPTS / script), *options, "--dry-run", "--", *command]
    done = subprocess.run(given, capture_output=True, text=True)
    lines = [shlex.split(line) for line in done.stdout.splitlines()]
    return done.returncode, lines, done.stderr


def remote(words, option):
    """The words of the command that an option hands to another shell."""
    (found,) = [w.removeprefix(option) for w in words if w.startswith(option)]
    return shlex.split(found)


def test_a_tpu_slice_runs_the_command_on_all_workers():
    code, lines, _ = dry_run("launch_tpu.sh", "--tpu=pod", "--zone=z", "--project=p")
    assert code == 0 and len(lines) == 1
    ssh = ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "pod"]
    assert lines[0][:9] == [*ssh, "--zone=z", "--worker=all", "--project=p"]
    there = remote(lines[0], "--command=")
    assert there == ["cd", "rlhf_jax", "&&", ".venv/bin/rlhf-jax", *TRAIN]


def test_slices_are_set_up_and_started_one_by_one():
    options = ("--tpu=pod", "--zone=z", "--slices=2", "--setup", "--directory=d")
    code, lines, _ = dry_run("launch_tpu.sh", *options)
    assert code == 0
    assert [line[4:6] for line in lines if line[0] == "gcloud"] == [
        *(["scp", lines[0][-2].removeprefix("--output=")], ["ssh", "pod-0"]),
        *(["scp", lines[0][-2].removeprefix("--output=")], ["ssh", "pod-1"]),
        *(["ssh", "pod-0"], ["ssh", "pod-1"]),
    ]
    installing = remote(lines[2], "--command=")
    assert ".[tpu]" in installing and installing[:3] == ["mkdir", "-p", "d"]


def test_a_slurm_job_has_a_process_for_each_gpu():
    code, lines, _ = dry_run("launch_slurm.sh", "--nodes=2", "--time=1:00:00")
    assert code == 0 and len(lines) == 1
    expected = {"--nodes=2", "--ntasks-per-node=8", "--gpus-per-node=8"}
    assert lines[0][0] == "sbatch" and expected < set(lines[0])
    assert "--signal=TERM@300" in lines[0] and "--time=1:00:00" in lines[0]
    there = remote(lines[0], "--wrap=")
    srun = ["exec", "srun", "--kill-on-bad-exit=1", "--label", ".venv/bin/rlhf-jax"]
    assert there[3:] == [*srun, *TRAIN]
    _, (cpus,), _ = dry_run("launch_slurm.sh", "--nodes=2", "--gpus-per-node=0")
    assert "--ntasks-per-node=1" in cpus and "--gpus-per-node" not in " ".join(cpus)


@pytest.mark.parametrize(
    ("script", "options", "said"),
    [
        ("launch_tpu.sh", ["--tpu=pod"], "--tpu=NAME and --zone=ZONE are needed"),
        ("launch_tpu.sh", ["--tpu=a", "--zone=z", "--slices=0"], "--slices=0"),
        ("launch_tpu.sh", ["--tup=a"], "unknown argument --tup=a"),
        ("launch_slurm.sh", [], "--nodes= is not a number"),
        ("launch_slurm.sh", ["--nodes=2", "--gpus-per-node=x"], "--gpus-per-node=x"),
    ],
)
def test_bad_arguments_are_one_error_line(script, options, said):
    code, lines, err = dry_run(script, *options)
    assert code == 2 and not lines
    assert err.startswith("error: ") and said in err and err.count("\n") == 1


@pytest.mark.parametrize("script", ["launch_tpu.sh", "launch_slurm.sh"])
def test_help_is_the_head_of_the_script(script):
    given = ["bash", str(SCRIPTS / script), "--help"]
    done = subprocess.run(given, capture_output=True, text=True)
    assert done.returncode == 0
    assert (
        done.stdout.startswith("Run a command of rlhf-jax") and "#" not in done.stdout
    )
