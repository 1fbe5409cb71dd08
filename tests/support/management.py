"""The management site over a fake transport: one HTTP request in, one answer out, no port."""

from __future__ import annotations

import base64
import json
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.testing import StringTransport

from broker.management.api import site
from broker.session.auth import Accounts
from tests.support.core import Core


class Answer:
    """Status, headers and body of an answer."""

    def __init__(self, raw: bytes) -> None:
        head, _, self.body = raw.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        self.status = int(lines[0].split()[1])
        self.headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines[1:])}

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Management:
    """A broker core with its management listener."""

    def __init__(self, accounts: Accounts | None = None, turn: Any = None) -> None:
        self.core = Core()
        self.description: dict[str, Any] = {
            "role": "active",
            "name": "gridmsg@test",
            "epoch": 3,
            "listeners": [{"protocol": "amqp", "host": "127.0.0.1", "port": 5672}],
            "connections": [{"peer": "127.0.0.1:40000", "opened_at_ms": 1}],
            "is_blocked": False,
            "store": {"segments": 2, "store_id": "x"},
        }
        self.closed: list[tuple[str, str]] = []
        self.site = site(
            self.core.broker,
            accounts or Accounts.guest_only(),
            lambda: self.description,
            turn,
            close_connection=self.close_connection,
        )

    def close_connection(self, name: str, text: str) -> bool:
        """Note which connection is to be closed; there is one."""
        self.closed.append((name, text))
        return any(one["peer"] == name for one in self.description["connections"])

    def raw(self, request: bytes, host: str = "127.0.0.1") -> StringTransport:
        """Send bytes and return the transport with what was answered so far."""
        transport = StringTransport(peerAddress=IPv4Address("TCP", host, 50000))
        protocol = self.site.buildProtocol(transport.getPeer())
        protocol.callLater = lambda *_: _NoCall()
        self.last_protocol = protocol
        protocol.makeConnection(transport)
        protocol.dataReceived(request)
        return transport

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        login: str | None = "guest:guest",
        host: str = "127.0.0.1",
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """Send one request and read its answer."""
        sent = (
            b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        )
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(sent)}"]
        if login is not None:
            lines.append("Authorization: Basic " + base64.b64encode(login.encode()).decode())
        lines += [f"{name}: {text}" for name, text in (headers or {}).items()]
        request = "\r\n".join(lines).encode() + b"\r\n\r\n" + sent
        return Answer(self.raw(request, host).value())


class _NoCall:
    """A timer that never fires."""

    def active(self) -> bool:
        return False

    def reset(self, seconds: float) -> None: ...

    def cancel(self) -> None: ...
