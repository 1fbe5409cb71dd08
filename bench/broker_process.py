"""A broker process for measurements: started, watched, killed, and always ended.

Tests: tests/unit/bench/test_recovery.py (what needs no process).
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Final, final

import click

from broker.config import DEFAULT_PORTS

START_SECONDS_MAX: Final = 120.0
STOP_SECONDS_MAX: Final = 60.0
POLL_SECONDS: Final = 0.002


@final
class BrokerProcess:
    """A broker on a data folder, from `start` to `kill` or `stop`; `config` is the text of its configuration file."""

    def __init__(self, folder: Path, port_offset: int, config: str = "") -> None:
        self.folder = folder
        self._port_offset = port_offset
        self.port = self.port_of("stomp")
        self._words = [
            *(sys.executable, "-m", "broker", "broker", "run"),
            *("--data", str(folder), "--port-offset", str(port_offset)),
        ]
        if config:
            path = folder / "bench.toml"
            path.write_text(config)
            self._words += ["--config", str(path)]
        self._process: subprocess.Popen[bytes] | None = None
        self.started_at = 0.0

    def port_of(self, protocol: str) -> int:
        """Where it listens for a protocol."""
        return DEFAULT_PORTS[protocol] + self._port_offset

    @property
    def pid(self) -> int:
        """The process id of the running broker."""
        assert self._process is not None, "the broker runs"
        return self._process.pid

    def start(self) -> None:
        """Start it and return at once; `started_at` is the moment before."""
        with (self.folder / "broker.log").open("ab") as log:
            self.started_at = time.perf_counter()
            self._process = subprocess.Popen(self._words, stdout=log, stderr=subprocess.STDOUT)

    def wait(self, protocol: str = "stomp") -> None:
        """Return when it accepts connections of a protocol; raises ClickException."""
        assert self._process is not None, "the broker was started"
        deadline = time.monotonic() + START_SECONDS_MAX
        port = self.port_of(protocol)
        while not accepts(port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                log = (self.folder / "broker.log").read_text(errors="replace")[-1000:]
                raise click.ClickException(f"the broker did not start:\n{log}")
            time.sleep(POLL_SECONDS)

    def kill(self) -> None:
        """`kill -9`, and wait until it is gone."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Stop cleanly."""
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            end_process(process, number)

    def cpu_seconds(self) -> float:
        """Processor time that it used so far."""
        return cpu_seconds(self.pid)

    def memory_bytes(self) -> tuple[int, int]:
        """Resident memory now, and the most there was."""
        return memory_bytes(self.pid)


def accepts(port: int) -> bool:
    """Whether somebody takes connections there, on this machine."""
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except OSError:
        return False
    return True


def end_process(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Send a signal and wait until the process is gone; one that outlasts `STOP_SECONDS_MAX` is killed."""
    process.send_signal(number)
    try:
        process.wait(STOP_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def cpu_seconds(pid: int) -> float:
    """Processor time that a process used so far; raises OSError when it is gone."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks: int = os.sysconf("SC_CLK_TCK")
    return (int(fields[11]) + int(fields[12])) / ticks


def memory_bytes(pid: int) -> tuple[int, int]:
    """Resident memory of a process now, and the most there was; raises OSError when it is gone."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    found = {line.partition(":")[0]: line.split()[1] for line in lines if line.endswith(" kB")}
    return int(found.get("VmRSS", "0")) << 10, int(found.get("VmHWM", "0")) << 10


def forget_cached(folder: Path) -> None:
    """Drop the cached pages of all files below a folder, so that the next reads come from the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            fd = os.open(path, os.O_RDONLY)
            try:
                os.fsync(fd)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(fd)


def used_bytes(folder: Path) -> int:
    """Space taken by all files below a folder."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())
