"""Real processes of a site for tests: started, killed, restarted, and always ended."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.ports import free_offset
from tests.support.waiting import PATIENCE_SECONDS, wait_until

ROOT = Path(__file__).resolve().parents[2]
LEASE = {"GRIDMSG_FAILOVER__LEASE": "120s"}
"""A broker that the machine, or its disk, lets wait for seconds shall not give up its store."""
CLOSE_SECONDS = 60.0
"""Until what does not end by SIGTERM is killed; at the end of a test that says nothing about it."""
NOT_YET = ("no such table", "unable to open database file")
"""What SQLite says of a file that is being made."""


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

    def environment(self) -> dict[str, str]:
        """Of this process, and a long lease where the configuration says nothing of it."""
        return dict(os.environ) if "[failover]" in self.config.read_text() else os.environ | LEASE

    def run(
        self, *words: str, check: bool = True, timeout_s: float = PATIENCE_SECONDS
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of the site to its end."""
        done = subprocess.run(  # noqa: S603
            self.command(*words),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            cwd=ROOT,
            env=self.environment(),
            check=False,
        )
        if check and done.returncode:
            pytest.fail(f"{words} failed ({done.returncode}):\n{done.stdout}\n{done.stderr}")
        return done

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """Start one long-running command, named by its words."""
        name = " ".join(words)
        with self.log_path(words[0]).open("ab") as out:
            process = subprocess.Popen(  # noqa: S603
                self.command(*words),
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env=self.environment(),
            )
        self.processes[name] = process
        return process

    def log_path(self, word: str) -> Path:
        """Where a command logs, by its first word."""
        return self.folder / f"{word}.log"

    def start_broker(self) -> None:
        """Start the broker, and wait until it says that it listens, with every protocol that it has."""
        self.start_and_hear("broker active", "broker", "run")

    def start_site(self) -> None:
        """Start everything, and wait until it is there."""
        self.start_and_hear("stop with Ctrl-C", "up")
        self.wait_for_port(8880)

    def start_and_hear(self, text: str, *words: str) -> None:
        """Start a command, and wait until its log has a text that was not there before; failing, it leaves nothing behind."""
        path = self.log_path(words[0])
        before_bytes = path.stat().st_size if path.exists() else 0
        process = self.start(*words)

        def is_said() -> bool:
            has_ended = process.poll() is not None
            if text.encode() in path.read_bytes()[before_bytes:]:
                return True
            if has_ended:
                pytest.fail(f"{words} ended ({process.returncode})\n{self.logs()}")
            return False

        try:
            wait_until(is_said, f"{words}: {text}", self)
        except BaseException:
            self.close()
            raise

    def kill(self, *words: str) -> None:
        """`kill -9`, and wait until it is gone."""
        process = self.processes.pop(" ".join(words))
        process.send_signal(signal.SIGKILL)
        process.wait()

    def stop(self, *words: str, timeout_s: float = PATIENCE_SECONDS) -> int:
        """SIGTERM, and wait for the exit status."""
        process = self.processes.pop(" ".join(words))
        process.terminate()
        return process.wait(timeout_s)

    def wait_for_port(self, default: int, timeout_s: float = PATIENCE_SECONDS) -> None:
        port = self.port(default)
        wait_until(lambda: listens(port), f"a listener on {port}", self, timeout_s=timeout_s)

    def post(self, body: bytes, timeout_s: float = PATIENCE_SECONDS) -> str:
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
                process.wait(CLOSE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes.clear()


def listens(port: int) -> bool:
    """Whether somebody takes connections there."""
    try:
        socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS).close()
    except OSError:
        return False
    return True


def stored_documents(database: Path, table: str = "raw") -> list[dict[str, Any]]:
    """What an SQLite record store holds, doubles included; nothing while its agent is still making the file."""
    if not database.exists():
        return []
    try:
        place = f"file:{database}?mode=ro"
        with closing(sqlite3.connect(place, uri=True, timeout=PATIENCE_SECONDS)) as connection:
            return [json.loads(row[0]) for row in connection.execute(f"SELECT doc FROM {table}")]  # noqa: S608
    except sqlite3.OperationalError as error:
        if any(text in str(error) for text in NOT_YET):
            return []
        raise


def raw_job_ids(database: Path) -> list[str]:
    """GlobalJobId of every raw record of an SQLite record store, as stored (doubles show)."""
    return [document["GlobalJobId"] for document in stored_documents(database)]


def wait_until_stored(site: Site, expected: set[str]) -> list[str]:
    """The job ids stored, once all expected ones are there."""
    stored: list[str] = []

    def is_whole() -> bool:
        stored[:] = raw_job_ids(site.data / "records.sqlite")
        return expected <= set(stored)

    wait_until(is_whole, f"{len(expected)} records in the store", site, pause_s=0.3)
    return stored


def is_slow_wanted() -> bool:
    """Whether the long forms of tests were asked for."""
    return os.environ.get("GRIDMSG_SLOW") == "1"
