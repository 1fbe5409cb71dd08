"""The management API as the commands use it: one request at a time over HTTP.

Tests: tests/unit/broker/cli/test_client.py.
"""

from __future__ import annotations

import base64
import http.client
import json
import ssl
from typing import Any, final
from urllib.parse import quote, urlsplit

from broker.cli.base import ClientTls, Failure

ANSWER_BYTES_MAX = 64 << 20
TIMEOUT_SECONDS = 30.0


@final
class Client:
    """Asks one broker.  Every refusal becomes a `Failure` that says what to do."""

    def __init__(self, url: str, login: str, password: str, tls: ClientTls | None = None) -> None:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Failure(f"{url}: an address such as http://127.0.0.1:15672 expected")
        self._tls = _tls_context(tls or ClientTls()) if parts.scheme == "https" else None
        self.url = url
        self._host = parts.hostname
        self._port = parts.port or (443 if self._tls else 80)
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
        connection = self._connection()
        try:
            connection.request(method, target, sent, headers)
            answer = connection.getresponse()
            raw = answer.read(ANSWER_BYTES_MAX)
        except ssl.SSLError as error:
            raise Failure(
                f"no TLS with {self.url}: {_tls_text(error)}: name its authority with --ca, and your "
                "certificate with --certificate and --certificate-key if it wants one"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            raise Failure(
                f"no broker answers at {self.url} ({error}): start one with `gridmsg up`, "
                "or name it with --data, --port-offset or --url"
            ) from None
        finally:
            connection.close()
        return self._decode(answer.status, raw)

    def _connection(self) -> http.client.HTTPConnection:
        if self._tls is None:
            return http.client.HTTPConnection(self._host, self._port, timeout=TIMEOUT_SECONDS)
        return http.client.HTTPSConnection(
            self._host, self._port, timeout=TIMEOUT_SECONDS, context=self._tls
        )

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


def _tls_context(tls: ClientTls) -> ssl.SSLContext:
    """Whom we trust and what we show; host names are always checked."""
    try:
        context = ssl.create_default_context(cafile=None if tls.ca is None else str(tls.ca))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if tls.certificate is not None:
            context.load_cert_chain(tls.certificate, tls.key)
    except ssl.SSLError as error:
        files = [str(one) for one in (tls.ca, tls.certificate, tls.key) if one is not None]
        raise Failure(f"{', '.join(files)}: not what TLS needs: {_tls_text(error)}") from None
    return context


def _tls_text(error: ssl.SSLError) -> str:
    return str(getattr(error, "verify_message", "") or error.reason or error)
