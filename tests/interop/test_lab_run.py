"""`gridmsg lab run` as a user runs it: brokers, links and load as processes, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench.lab import namespaces
from bench.lab.topology import shipped_files
from tests.support.site import LEASE, ROOT
from tests.support.waiting import wait_until

pytestmark = pytest.mark.interop
PATIENCE_SECONDS = 600.0
THREE = """
[[path]]
between = ["cern", "zagreb"]
round-trip = "20ms"
[[path]]
between = ["zagreb", "lyon"]
round-trip = "10ms"
[[channel]]
from = "cern"
to = ["zagreb", "lyon"]
rate = 100
"""


def command(*words):
    return [sys.executable, "-m", "broker", "lab", *words]


def run(*words, timeout_s=PATIENCE_SECONDS):
    return subprocess.run(
        command(*words),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        cwd=ROOT,
        env=os.environ | LEASE,
        check=False,
    )


def left_behind(folder):
    """Processes whose arguments or files name the folder."""
    found = []
    for one in Path("/proc").glob("[0-9]*"):
        try:
            words = (one / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if str(folder) in words and int(one.name) != os.getpid():
            found.append(words)
    return found


def test_three_brokers_in_a_chain_lose_and_double_nothing(tmp_path):
    file = tmp_path / "three.toml"
    file.write_text(THREE)
    out = tmp_path / "run"
    done = run("run", str(file), "--relay", "stream", "--duration", "2s", "--out", str(out))
    assert done.returncode == 0, done.stderr + done.stdout
    assert "nothing lost, nothing doubled" in done.stdout
    result = json.loads((out / "result.json").read_text())
    for target in result["channels"]["channel-1"]["targets"].values():
        assert target["arrived"] == target["confirmed"] == 200
        assert (target["doubled"], target["disordered"], target["corrupt"]) == (0, 0, 0)
        assert target["latency_ms"]["p50"] >= 10
    assert result["relay"] == "stream"
    page = (out / "report.html").read_text()
    assert "nothing lost, nothing doubled" in page
    wait_until(lambda: not left_behind(out), "the end of its processes")
    again = run("run", str(file), "--out", str(out))
    assert again.returncode == 1
    assert "name a new folder" in again.stderr
    anew = run("report", str(out), "--out", str(tmp_path / "copy"))
    assert anew.returncode == 0, anew.stderr
    assert (tmp_path / "copy" / "report.html").exists()


@pytest.fixture(params=[signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def ended_early(request, tmp_path):
    """A run that was ended by a signal while messages flowed; its folder and exit status."""
    file = tmp_path / "pair.toml"
    file.write_text(THREE.replace('"lyon"]\n', '"lyon"]\nlink = true\n'))
    out = tmp_path / "run"
    process = subprocess.Popen(
        command("run", str(file), "--duration", "600s", "--out", str(out)),
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if "publishing" in line:
                break
        process.send_signal(request.param)
        status = process.wait(PATIENCE_SECONDS)
    finally:
        process.kill()
        process.wait()
    return out, status


@pytest.mark.slow
def test_nothing_is_left_behind_whatever_ends_it(ended_early):
    out, status = ended_early
    assert status in (1, -signal.SIGKILL)
    wait_until(lambda: not left_behind(out), "the end of its processes")
    if namespaces.objection() is None:
        namespaces.remove_leftovers()
        mine = namespaces._ip("netns", "list")
        assert f"{namespaces.PREFIX}{os.getpid()}" not in mine


@pytest.mark.slow
@pytest.mark.parametrize("path", shipped_files(), ids=lambda path: path.stem)
def test_what_ships_runs_without_fault(path, tmp_path):
    scale = "0.002" if path.stem == "seven-million" else "1"
    done = run(*("run", path.stem, "--out", str(tmp_path / "run"), "--scale", scale), timeout_s=900)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
