"""The management API as the commands use it: one request at a time over HTTP.

Tests: tests/unit/broker/cli/test_client.py.
"""

from __future__ import annotations

import base64
import http.client
import json
from typing import Any, final
from urllib.parse import quote, urlsplit

from broker.cli.base import Failure

ANSWER_BYTES_MAX = 64 << 20
TIMEOUT_SECONDS = 30.0


@final
class Client:
    """Asks one broker.  Every refusal becomes a `Failure` that says what to do."""

    def __init__(self, url: str, login: str, password: str) -> None:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        if parts.scheme != "http" or not parts.hostname:
            raise Failure(f"{url}: an address such as http://127.0.0.1:15672 expected")
        self.url = url
        self._host = parts.hostname
        self._port = parts.port or 80
        self._login = login
        self._authorization = "Basic " + base64.b64encode(f"{login}:{password}".encode()).decode()

    def get(self, *path: str, **query: str | int) -> Any:
        """GET /api/…; path parts are quoted here."""
        return self.request("GET", path, None, query)

    def put(self, *path: str, body: object = None) -> Any:
        """PUT /api/…."""
        return self.request("PUT", path, body or {}, {})

    def post(self, *path: str, body: object = None) -> Any:
        """POST /api/…."""
        return self.request("POST", path, body or {}, {})

    def delete(self, *path: str, **query: str | int) -> Any:
        """DELETE /api/…."""
        return self.request("DELETE", path, None, query)

    def request(
        self, method: str, path: tuple[str, ...], body: object, query: dict[str, str | int]
    ) -> Any:
        """Send one request and return the decoded answer; raises Failure."""
        target = "/api/" + "/".join(quote(part, safe="") for part in path)
        if query:
            target += "?" + "&".join(f"{key}={quote(str(one))}" for key, one in query.items())
        sent = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": self._authorization, "Content-Type": "application/json"}
        connection = http.client.HTTPConnection(self._host, self._port, timeout=TIMEOUT_SECONDS)
        try:
            connection.request(method, target, sent, headers)
            answer = connection.getresponse()
            raw = answer.read(ANSWER_BYTES_MAX)
        except (OSError, http.client.HTTPException) as error:
            raise Failure(
                f"no broker answers at {self.url} ({error}): start one with `gridmsg up`, "
                "or name it with --data, --port-offset or --url"
            ) from None
        finally:
            connection.close()
        return self._decode(answer.status, raw)

    def _decode(self, status: int, raw: bytes) -> Any:
        try:
            answer = json.loads(raw) if raw else None
        except ValueError:
            answer = None
        if 200 <= status < 300:
            return answer
        reason = answer.get("reason") if isinstance(answer, dict) else None
        if status == 401:
            raise Failure(
                f"{self.url} does not know this login for '{self._login}': give --login and --password"
            )
        raise Failure(str(reason or f"{self.url} answered with status {status}"))
