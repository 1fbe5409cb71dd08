"""Looks at a broker through its management API once a sample, in a thread of its own: backlog, and the state of its links.

Tests: tests/unit/bench/lab/test_probe.py.
"""

from __future__ import annotations

import base64
import http.client
import json
import threading
from typing import Any, Final, final

TIMEOUT_SECONDS: Final = 5.0
CALL_TRIES: Final = 60
_HEADERS: Final = {"Authorization": "Basic " + base64.b64encode(b"guest:guest").decode()}


@final
class Probe:
    """`latest` is what was seen last; None while the broker does not answer."""

    def __init__(self, port: int, every_seconds: float) -> None:
        self._port = port
        self._every_seconds = every_seconds
        self.latest: dict[str, Any] | None = None
        self.refusal = ""
        self.is_failed = False
        self._stopped = threading.Event()
        threading.Thread(target=self._run, name="probe", daemon=True).start()

    def _run(self) -> None:
        while not self._stopped.wait(self._every_seconds):
            try:
                self.latest = self._look()
            except (OSError, http.client.HTTPException, ValueError):
                self.latest = None

    def call(self, method: str, path: str, body: dict[str, Any] | None) -> None:
        """Make a call of the API beside everything else; what it refuses is in `refusal`."""
        threading.Thread(target=self._call, args=(method, path, body), daemon=True).start()

    def _call(self, method: str, path: str, body: dict[str, Any] | None) -> None:
        raw = None if body is None else json.dumps(body)
        for _ in range(CALL_TRIES):
            connection = http.client.HTTPConnection(
                "127.0.0.1", self._port, timeout=TIMEOUT_SECONDS
            )
            try:
                connection.request(method, path, raw, _HEADERS)
                response = connection.getresponse()
                text = response.read().decode(errors="replace")
            except (OSError, http.client.HTTPException) as error:
                # The broker may have been killed a moment ago.
                self.refusal = f"{method} {path}: {error}"
            else:
                if response.status < http.client.BAD_REQUEST:
                    return
                self.refusal = f"{method} {path}: {response.status} {text[:200]}"
            if self._stopped.wait(self._every_seconds):
                return
        self.is_failed = True

    def _look(self) -> dict[str, Any] | None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT_SECONDS)
        try:
            overview = _get(connection, "/api/overview")
        finally:
            connection.close()
        return None if overview is None else summarize(overview)


def summarize(overview: dict[str, Any]) -> dict[str, Any]:
    """What the lab keeps of the API's answer."""
    return {
        "messages": int(overview["queue_totals"]["messages"]),
        "links": [_link(one) for one in overview.get("gridmsg", {}).get("links", [])],
    }


def _link(row: dict[str, Any]) -> dict[str, Any]:
    """A link's state, with the sums and the worst of its streams."""
    streams = row.get("streams", [])
    kept = {key: row.get(key) for key in ("link", "direction", "state", "reason", "last_error")}
    kept["round_trip_ms"] = row.get("round_trip_ms") or 0
    kept["connections"] = row.get("connections", 0)
    kept["lag_ms"] = max((one.get("lag_ms", 0) for one in streams), default=0)
    for key in ("backlog", "in_flight", "repeats", "second_copies", "circled", "unroutable"):
        kept[key] = sum(one.get(key, 0) for one in streams)
    kept["possible_duplicates"] = sum(one.get("possible_duplicates", 0) for one in streams)
    kept["streams"] = len(streams)
    return kept


def _get(connection: http.client.HTTPConnection, path: str) -> Any:
    """The answer, or None where the broker knows no such path."""
    connection.request("GET", path, headers=_HEADERS)
    response = connection.getresponse()
    raw = response.read()
    return json.loads(raw) if response.status == http.client.OK else None
