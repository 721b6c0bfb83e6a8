"""The local launcher, with stand-ins for the processes of a run."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[1]
SCRIPT = str(ROOT / "scripts" / "launch_local.py")

PROGRAM = """
import os, pathlib, signal, sys, time
index = os.environ["JAX_PROCESS_ID"]
here = pathlib.Path(sys.argv[2])

def leave(number, frame):
    (here / f"asked-{index}").touch()
    sys.exit(143)

signal.signal(signal.SIGTERM, leave)
print(os.environ["JAX_NUM_PROCESSES"], os.environ["XLA_FLAGS"], flush=True)
print("[Gloo] Rank 0 is connected", flush=True)
(here / f"pid-{index}").write_text(str(os.getpid()))
while not (here / f"go-{index}").exists():
    time.sleep(0.02)
code = (here / f"go-{index}").read_text()
if code != "0":
    print("error: no", file=sys.stderr)
sys.exit(int(code))
"""


@pytest.fixture
def launched(tmp_path):
    """`launched(*options)`: the launcher over two stand-ins, both under way."""
    package = tmp_path / "rlhf_jax"
    package.mkdir()
    (package / "__main__.py").write_text(PROGRAM)
    here = tmp_path / "here"
    here.mkdir()
    started = []

    def launch(*options):
        process = subprocess.Popen(
            [sys.executable, SCRIPT, *options, "--", "train", str(here)],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(tmp_path), "XLA_FLAGS": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process, [wait_for(here / f"pid-{i}", process) for i in range(2)], here

    yield launch
    for process in started:
        process.kill()
        process.wait()


def wait_for(path, process):
    """The number in a file, once it is there."""
    while not (path.exists() and path.read_text()):
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.02)
    return int(path.read_text())


def ended(pid):
    """Whether a process is gone, or waits for its parent to notice."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_output_and_success(launched):
    process, _, here = launched("--devices-per-process=4")
    for index in range(2):
        (here / f"go-{index}").write_text("0")
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0 and err == ""
    line = "2 --xla_force_host_platform_device_count=4"
    assert sorted(out.splitlines()) == [line, f"[1] {line}"]


def test_an_error_of_one_process_is_the_error_of_the_run(launched):
    process, pids, here = launched()
    (here / "go-1").write_text("2")
    (here / "go-0").write_text("2")
    _, err = process.communicate(timeout=30)
    assert process.returncode == 2
    assert set(err.splitlines()) == {"error: no"}
    assert all(map(ended, pids))


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_others(launched, victim):
    process, pids, _ = launched()
    os.kill(pids[victim], signal.SIGKILL)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 4
    said = f"error: process {victim} of 2 was ended by SIGKILL; the others were ended."
    assert err.startswith(said) and err.count("\n") == 1
    assert all(map(ended, pids))


def test_a_stopped_process_ends_the_others(launched):
    process, pids, _ = launched("--patience=0.3")
    os.kill(pids[1], signal.SIGSTOP)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 4
    assert "process 1 of 2 is stopped and does not answer" in err
    assert all(map(ended, pids))


def test_a_process_that_goes_on_in_time_is_left_alone(launched):
    process, pids, here = launched("--patience=5")
    os.kill(pids[1], signal.SIGSTOP)
    os.kill(pids[1], signal.SIGCONT)
    for index in range(2):
        (here / f"go-{index}").write_text("0")
    assert process.wait(timeout=30) == 0


def test_processes_do_not_outlive_a_killed_launcher(launched):
    process, pids, _ = launched()
    process.kill()
    process.wait()
    until = time.monotonic() + 30
    while not all(map(ended, pids)):
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_reach_all_processes(launched, number):
    process, pids, here = launched()
    process.send_signal(number)
    process.communicate(timeout=30)
    if number == signal.SIGTERM:
        assert process.returncode == 143
        assert {p.name for p in here.glob("asked-*")} == {"asked-0", "asked-1"}
    else:
        assert process.returncode == 130
    assert all(map(ended, pids))


def test_bad_arguments_start_nothing():
    for given in (["--processes=0", "--", "train"], ["--processes=2"]):
        done = subprocess.run([sys.executable, SCRIPT, *given], capture_output=True)
        assert done.returncode == 2 and b"error:" in done.stderr
