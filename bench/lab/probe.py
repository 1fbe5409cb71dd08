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
_HEADERS: Final = {"Authorization": "Basic " + base64.b64encode(b"guest:guest").decode()}


@final
class Probe:
    """`latest` is what was seen last; None while the broker does not answer."""

    def __init__(self, port: int, every_seconds: float) -> None:
        self._port = port
        self._every_seconds = every_seconds
        self._has_links = True
        self.latest: dict[str, Any] | None = None
        self._stopped = threading.Event()
        threading.Thread(target=self._run, name="probe", daemon=True).start()

    def _run(self) -> None:
        while not self._stopped.wait(self._every_seconds):
            try:
                self.latest = self._look()
            except (OSError, http.client.HTTPException, ValueError):
                self.latest = None

    def _look(self) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT_SECONDS)
        try:
            queues = _get(connection, "/api/queues") or []
            links = _get(connection, "/api/links") if self._has_links else None
            self._has_links = links is not None
        finally:
            connection.close()
        return summarize(queues, links or [])


def summarize(queues: list[dict[str, Any]], links: list[dict[str, Any]]) -> dict[str, Any]:
    """What the lab keeps of the API's answers."""
    return {
        "messages": sum(int(one.get("messages", 0)) for one in queues),
        "queues": {str(one.get("name")): int(one.get("messages", 0)) for one in queues},
        "links": links,
    }


def _get(connection: http.client.HTTPConnection, path: str) -> Any:
    """The answer, or None where the broker knows no such path."""
    connection.request("GET", path, headers=_HEADERS)
    response = connection.getresponse()
    raw = response.read()
    return json.loads(raw) if response.status == http.client.OK else None
