"""A broker of another make for measurements, started and killed by a script of the user's.

The script is called as `SCRIPT start NAME`, `SCRIPT kill NAME` (SIGKILL, returns when it is gone), `SCRIPT pid NAME` and
`SCRIPT data NAME` (print the process id, and the folder of its store).  With KEEP=1 in its environment `start` keeps the store,
else it begins an empty one.  Tests: tests/unit/bench/test_peer_process.py.
"""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Final, final

import click

from bench.broker_process import POLL_SECONDS, accepts, cpu_seconds, memory_bytes

START_SECONDS_MAX: Final = 900.0
SCRIPT_SECONDS_MAX: Final = 120.0


@final
class PeerProcess:
    """Another broker, by its script; what `bench.broker_process.BrokerProcess` is to ours."""

    def __init__(self, name: str, port: int, script: str) -> None:
        self.name = name
        self.port = port
        self._script = script
        self._keeps = False
        self._is_running = False
        self.started_at = 0.0

    @classmethod
    def parse(cls, text: str) -> PeerProcess:
        """Read NAME:PORT:SCRIPT.  Raises BadParameter."""
        name, _, rest = text.partition(":")
        port, _, script = rest.partition(":")
        if not (name and port.isdecimal() and script):
            raise click.BadParameter(f"{text!r} is not NAME:PORT:SCRIPT")
        return cls(name, int(port), script)

    def _call(self, word: str) -> str:
        env = {**os.environ, "KEEP": "1" if self._keeps else ""}
        try:
            done = subprocess.run(
                [self._script, word, self.name],
                env=env,
                stdin=subprocess.DEVNULL,
                # A broker that it leaves running must not hold our pipe open.
                stdout=subprocess.PIPE if word in ("pid", "data") else subprocess.DEVNULL,
                check=True,
                timeout=SCRIPT_SECONDS_MAX,
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise click.ClickException(f"{self._script} {word} {self.name}: {error}") from None
        return (done.stdout or b"").decode().strip()

    @property
    def folder(self) -> Path:
        """Where its store is."""
        return Path(self._call("data"))

    @property
    def pid(self) -> int:
        """The process that the script started; it may have children."""
        return int(self._call("pid"))

    def start(self) -> None:
        """Start it and return at once; `started_at` is the moment before.  The first start begins an empty store."""
        self.started_at = time.perf_counter()
        self._call("start")
        self._keeps = self._is_running = True

    def wait(self) -> None:
        """Return when it accepts connections; raises ClickException."""
        deadline = time.monotonic() + START_SECONDS_MAX
        while not accepts(self.port):
            if time.monotonic() > deadline:
                raise click.ClickException(f"{self.name} did not start")
            time.sleep(POLL_SECONDS)

    def kill(self) -> None:
        """`kill -9`, and wait until it is gone."""
        if self._is_running:
            self._is_running = False
            self._call("kill")

    def cpu_seconds(self) -> float:
        """Processor time that its processes used so far."""
        return sum(cpu_seconds(pid) for pid in tree_of(self.pid))

    def memory_bytes(self) -> tuple[int, int]:
        """Resident memory of its processes now, and the most each had."""
        found = [memory_bytes(pid) for pid in tree_of(self.pid)]
        return sum(now for now, _ in found), sum(peak for _, peak in found)


def tree_of(pid: int) -> list[int]:
    """A process and all that it started, as far as they are there."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = task.read_text().split()
        except OSError:
            continue
        for child in children:
            found += tree_of(int(child))
    return found
