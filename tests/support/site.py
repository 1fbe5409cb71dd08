"""Real processes of a site for tests: started, killed, restarted, and always ended."""

from __future__ import annotations

import http.client
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEFAULT_PORTS = (5672, 61613, 15672, 8880)


def free_offset() -> int:
    """A port offset at which all default ports are free."""
    for _ in range(200):
        offset = random.randrange(100, 3900)  # noqa: S311 - ports, not secrets
        if all(_is_free(port + offset) for port in DEFAULT_PORTS):
            return offset
    pytest.fail("no free port offset found")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class Site:
    """A data folder and the processes that work on it."""

    def __init__(self, folder: Path, config: str = "", offset: int | None = None) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.offset = free_offset() if offset is None else offset
        self.data = folder / "data"
        self.config = folder / "gridmsg.toml"
        self.config.write_text(config)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def port(self, default: int) -> int:
        return default + self.offset

    def options(self) -> list[str]:
        return [
            "--data",
            str(self.data),
            "--config",
            str(self.config),
            "--port-offset",
            str(self.offset),
        ]

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "broker", *words, *self.options()]

    def run(
        self, *words: str, check: bool = True, timeout_s: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of the site to its end."""
        done = subprocess.run(  # noqa: S603
            self.command(*words),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            cwd=ROOT,
            check=False,
        )
        if check and done.returncode:
            pytest.fail(f"{words} failed ({done.returncode}):\n{done.stdout}\n{done.stderr}")
        return done

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """Start one long-running command, named by its words."""
        name = " ".join(words)
        with (self.folder / f"{words[0]}.log").open("ab") as out:
            process = subprocess.Popen(  # noqa: S603
                self.command(*words), stdout=out, stderr=subprocess.STDOUT, cwd=ROOT
            )
        self.processes[name] = process
        return process

    def start_broker(self) -> None:
        self.start("broker", "run")
        self.wait_for_port(61613)

    def kill(self, *words: str) -> None:
        """`kill -9`, and wait until it is gone."""
        process = self.processes.pop(" ".join(words))
        process.send_signal(signal.SIGKILL)
        process.wait()

    def stop(self, *words: str, timeout_s: float = 15) -> int:
        """SIGTERM, and wait for the exit status."""
        process = self.processes.pop(" ".join(words))
        process.terminate()
        return process.wait(timeout_s)

    def wait_for_port(self, default: int, timeout_s: float = 60) -> None:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port(default)), 1).close()
            except OSError:
                if time.monotonic() > deadline:
                    pytest.fail(f"nothing listens on {self.port(default)}\n{self.logs()}")
                time.sleep(0.05)
            else:
                return

    def post(self, body: bytes, timeout_s: float = 60) -> str:
        """POST a probe's form to the collector; returns the body of the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port(8880), timeout=timeout_s)
        try:
            connection.request(
                "POST",
                "/gratia-servlets/rmi",
                body,
                {"Content-Type": "application/x-www-form-urlencoded"},
            )
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    def logs(self) -> str:
        """The ends of all logs, for a failure's text."""
        return "\n".join(
            f"--- {path.name}\n" + path.read_text(errors="replace")[-3000:]
            for path in sorted(self.folder.glob("*.log"))
        )

    def close(self) -> None:
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes.clear()


def raw_job_ids(database: Path) -> list[str]:
    """GlobalJobId of every raw record of an SQLite record store, as stored (doubles show)."""
    if not database.exists():
        return []
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        return [
            row[0]
            for row in connection.execute("SELECT json_extract(doc, '$.GlobalJobId') FROM raw")
        ]
    finally:
        connection.close()


def wait_until_stored(site: Site, expected: set[str], timeout_s: float = 60) -> list[str]:
    """The job ids stored, once all expected ones are there or the time is over."""
    deadline = time.monotonic() + timeout_s
    while True:
        stored = raw_job_ids(site.data / "records.sqlite")
        if expected <= set(stored) or time.monotonic() > deadline:
            return stored
        time.sleep(0.3)


def is_slow_wanted() -> bool:
    """Whether the long forms of tests were asked for."""
    return os.environ.get("GRIDMSG_SLOW") == "1"
