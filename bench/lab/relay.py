"""A relay process as the lab sees it: started with a plan, told orders, asked for counts, always ended.

Tests: tests/interop/test_lab_packets.py, tests/interop/test_lab_stream.py.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final, final

ANSWER_SECONDS_MAX: Final = 60.0
END_SECONDS_MAX: Final = 3.0


class RelayFailed(Exception):
    """The relay did not start, answer or go on; the text says why."""


@final
class Relay:
    """One relay process, for all paths of a run: `bench.lab.packets` or `bench.lab.stream`."""

    def __init__(self, module: str, plan: dict[str, Any], log: Path) -> None:
        self._log_path = log
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        try:
            self._tell(plan)
            self.answer = self._next("ready")
        except RelayFailed:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def set(self, path: str, **fields: float) -> None:
        """Change a line."""
        self._tell({"path": path, "set": fields})

    def cut(self, path: str, *, is_reset: bool) -> None:
        """Let nothing through."""
        self._tell({"path": path, "cut": "reset" if is_reset else "silent"})

    def mend(self, path: str) -> None:
        """Let traffic through again."""
        self._tell({"path": path, "mend": True})

    def stats(self) -> dict[str, Any]:
        """Counts of all paths, and the relay's processor time."""
        self._tell({"stats": True})
        return self._next("stats")

    def close(self) -> None:
        """End it; its devices and sockets go with it."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(END_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _tell(self, order: dict[str, Any]) -> None:
        assert self._process.stdin is not None, "it was opened with a pipe"
        try:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise RelayFailed(f"the relay ended: {self._log()}") from None

    def _next(self, wanted: str) -> dict[str, Any]:
        """The next answer with that key; raises RelayFailed for an error or silence."""
        out = self._process.stdout
        assert out is not None, "it was opened with a pipe"
        deadline = time.monotonic() + ANSWER_SECONDS_MAX
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([out], [], [], left)[0]:
                raise RelayFailed(f"the relay does not answer: {self._log()}")
            line = out.readline()
            if not line:
                raise RelayFailed(f"the relay ended: {self._log()}")
            found: dict[str, Any] = json.loads(line)
            if "error" in found:
                raise RelayFailed(str(found["error"]))
            if wanted in found:
                return found

    def _log(self) -> str:
        text = self._log_path.read_text(errors="replace").strip()
        return text[-1000:] or "it said nothing"
