"""The two scripts of the README: interpreters, arguments, repair."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


def write_program(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/usr/bin/env bash\n" + text)
    path.chmod(0o755)
    return path


@pytest.fixture
def clone(tmp_path):
    """A copy of what the scripts need, in a folder with a space in its name."""
    folder = tmp_path / "a clone"
    shutil.copytree(ROOT / "scripts", folder / "scripts")
    shutil.copytree(ROOT / "constraints", folder / "constraints")
    shutil.copy(ROOT / "setup.py", folder)
    return folder


def run(clone, script, *arguments, cwd=None, **env):
    clean = {k: v for k, v in os.environ.items() if k != "PYTHON"}
    return subprocess.run(
        ["bash", clone / "scripts" / script, *arguments],
        cwd=cwd or clone,
        env=clean | env,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("script", ["quickstart.sh", "test.sh"])
def test_an_old_python_is_refused(clone, script):
    old = write_program(
        clone / "python3.9",
        'case "$2" in *%d.%d*) echo 3.9 ;; *"(3, 11)"*) exit 1 ;; esac\n',
    )
    result = run(clone, script, PYTHON=str(old))
    assert result.returncode == 2
    assert result.stderr.startswith("error: Python 3.11 or newer is needed")
    assert "is Python 3.9" in result.stderr
    assert not (clone / ".venv-3.9").exists()


def test_a_python_without_venv_is_refused(clone):
    bare = write_program(
        clone / "python3",
        'case "$2" in *%d.%d*) echo 3.11 ;; *venv*) exit 1 ;; esac\n',
    )
    result = run(clone, "test.sh", PYTHON=str(bare))
    assert result.returncode == 2
    assert "lacks the venv module" in result.stderr
    assert "apt install python3.11-venv" in result.stderr


def test_an_absent_python_is_named(clone):
    result = run(clone, "quickstart.sh", PYTHON="python3.99")
    assert result.returncode == 2
    assert "no interpreter named 'python3.99'" in result.stderr


@pytest.fixture
def installed(clone):
    """The clone after an installation; its `python -m rlhf_jax` prints arguments."""
    write_program(
        clone / ".venv" / "bin" / "python",
        f'if [ "$1 $2" = "-m rlhf_jax" ]; then printf "%s\\n" "$@"; '
        f'else exec "{sys.executable}" "$@"; fi\n',
    )
    stamp = subprocess.run(
        ["bash", "-c", f'. scripts/lib.sh; install_stamp "{sys.executable}" ""'],
        cwd=clone,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    (clone / ".venv" / "installed-base").write_text(stamp)
    shutil.copy(clone / ".venv" / "bin" / "python", clone / "python3")
    return clone


@pytest.mark.parametrize(
    ("arguments", "workdir"),
    [
        ([], "--workdir=runs/quickstart-seed0"),
        (["--config.seed", "7"], "--workdir=runs/quickstart-seed7"),
        (["--config.seed=7", "--config.seeds=9"], "--workdir=runs/quickstart-seed7"),
        (["--workdir=w x", "--config.seed=7"], "--workdir=w x"),
        (["--workdir", "w"], "--workdir"),
    ],
)
def test_quickstart_passes_arguments_through(installed, arguments, workdir):
    """A second run needs no installation, and the default workdir carries the seed."""
    path = f"{installed}{os.pathsep}{os.environ['PATH']}"
    result = run(installed, "quickstart.sh", *arguments, PATH=path)
    assert result.returncode == 0, result.stderr
    assert "installing" not in result.stderr
    told = result.stdout.splitlines()
    assert told[:4] == ["-m", "rlhf_jax", "train", "--config=experiments/quickstart.py"]
    assert [x for x in told if x.startswith("--workdir")] == [workdir]
    assert told[len(told) - len(arguments) :] == arguments


def test_quickstart_works_from_another_folder(installed, tmp_path):
    """A relative --workdir is the caller's; the default one stays in the clone."""
    path = f"{installed}{os.pathsep}{os.environ['PATH']}"
    config = f"--config={installed}/experiments/quickstart.py"
    result = run(installed, "quickstart.sh", "--workdir=w", cwd=tmp_path, PATH=path)
    assert result.stdout.splitlines()[3:] == [config, "--workdir=w"], result.stderr
    result = run(installed, "quickstart.sh", cwd=tmp_path, PATH=path)
    workdir = f"--workdir={installed}/runs/quickstart-seed0"
    assert result.stdout.splitlines()[3:] == [config, workdir]


def test_changed_requirements_install_again(installed):
    """A stale stamp leads to pip, whose failure is a clear message, and no stamp."""
    (installed / "setup.py").write_text("raise SystemExit('broken on purpose')\n")
    path = f"{installed}{os.pathsep}{os.environ['PATH']}"
    result = run(
        installed,
        "quickstart.sh",
        PATH=path,
        PIP_NO_INDEX="1",
        PIP_NO_BUILD_ISOLATION="0",
    )
    assert result.returncode == 2
    assert "installation into .venv failed" in result.stderr
    assert not list((installed / ".venv").glob("installed-*"))


def test_scripts_parse_and_are_executable():
    scripts = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("scripts/*.sh"))
    for name in (*(name for name in scripts if "lib.sh" not in name), ".ci/run"):
        assert os.access(ROOT / name, os.X_OK)
        subprocess.run(["bash", "-n", str(ROOT / name)], check=True)


def test_a_peer_that_nobody_knows_is_refused(clone):
    result = run(clone, "peers.sh", "trl", "torchtune")
    assert result.returncode == 2 and not list(clone.glob(".venv*"))
    assert result.stderr == (
        "error: no peer is named 'torchtune'; choose from trl, tunix\n"
    )
