"""What the lab tells a relay while it runs, one JSON object a line, and what the relay answers.

Orders: `{"path": NAME, "set": {FIELD: VALUE}}`, `{"path": NAME, "cut": "silent" | "reset"}`, `{"path": NAME, "mend": true}`,
`{"stats": true}`.  A relay answers `stats` with one line and ends when its input ends.  Both relays obey this, so that an
experiment is the same over either.  Tests: tests/unit/bench/lab/test_packets.py.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Any, Final, Protocol, final

from bench.lab.way import Way, change

READ_BYTES: Final = 1 << 16


class Path(Protocol):
    """One path of a relay: two ways that share a line."""

    ways: tuple[Way, Way]

    def cut(self, *, is_reset: bool) -> None:
        """Let nothing through from now on."""
        ...

    def mend(self) -> None:
        """Let traffic through again."""
        ...


@final
class Orders:
    """Reads orders from a descriptor and carries them out."""

    def __init__(
        self, fd: int, paths: dict[str, Any], answer: Callable[[str], None] | None = None
    ) -> None:
        self.fd = fd
        self._paths: dict[str, Path] = paths
        self._rest = b""
        self._answer = answer or _print
        self.is_ended = False

    def read(self) -> None:
        """Take what is there; `is_ended` is set when the lab has gone."""
        piece = os.read(self.fd, READ_BYTES)
        if not piece:
            self.is_ended = True
            return
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            self.obey(json.loads(line))

    def obey(self, order: dict[str, Any]) -> None:
        """Carry out one order; what cannot be done is answered as an error, and changes nothing."""
        if order.get("stats"):
            self._answer(json.dumps({"stats": self.stats(), "cpu_seconds": time.process_time()}))
            return
        path = self._paths.get(str(order.get("path")))
        if path is None:
            self._answer(json.dumps({"error": f"no path {order.get('path')!r}"}))
        elif "set" in order:
            try:
                change(path.ways[0].line, order["set"])
            except ValueError as error:
                self._answer(json.dumps({"error": str(error)}))
        elif "cut" in order:
            path.cut(is_reset=order["cut"] == "reset")
        elif "mend" in order:
            path.mend()
        else:
            self._answer(json.dumps({"error": f"not understood: {sorted(order)}"}))

    def stats(self) -> dict[str, Any]:
        """Counts of each path, both ways."""
        return {
            name: {"there": path.ways[0].counts(), "back": path.ways[1].counts()}
            for name, path in self._paths.items()
        }


def _print(text: str) -> None:
    print(text, flush=True)
