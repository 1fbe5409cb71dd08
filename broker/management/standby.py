"""The management listener of a broker that is not active: health, figures and an overview; nothing can be changed.

Whoever asks from elsewhere than this machine needs a login of the configuration for all but health.  Tests:
tests/unit/broker/management/test_standby.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from typing import Any, Final, final

from twisted.web import http
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from broker.errors import AccessRefused
from broker.management.patience import patient
from broker.session.auth import Accounts, Login
from broker.session.sasl import PasswordLogin

GAUGES: Final = {
    "gridmsg_up": "1 while the broker is active.",
    "gridmsg_standby": "1 while the broker waits for the store's lease.",
    "gridmsg_epoch": "Epoch of the store's owner.",
    "gridmsg_lease_age_seconds": "Since the owner's last renewal was seen.",
}


def standby_site(accounts: Accounts, describe: Callable[[], dict[str, Any]]) -> Site:
    """The HTTP server of a standby; `describe` tells role, epoch, and who is active."""
    return patient(StandbyApi(accounts, describe))


@final
class StandbyApi(Resource):
    """Everything that a standby serves."""

    isLeaf = True  # noqa: N815 - Twisted's name

    def __init__(self, accounts: Accounts, describe: Callable[[], dict[str, Any]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._accounts = accounts
        self._describe = describe

    def render(self, request: Request) -> Any:
        """Answer a request; Twisted calls it."""
        request.setHeader(b"Server", b"gridmsg")
        request.setHeader(b"Cache-Control", b"no-store")
        path = request.path.split(b"?")[0].decode("latin-1")
        described = self._describe()
        role = described["role"]
        if request.method not in (b"GET", b"HEAD"):
            return _answer(request, 503, {"error": "standby", "reason": _where(described)})
        if path == "/health/live":
            return _answer(request, 200, {"status": "ok", "role": role})
        if path == "/health/ready":
            return _answer(request, 503, {"status": "failed", "role": role, **_lease(described)})
        host = getattr(request.getClientAddress(), "host", "")
        is_loopback = host == "::1" or host.startswith("127.") or host == ""
        if is_loopback and not request.getUser():
            return self._tell(request, path, described)
        credentials = PasswordLogin(
            request.getUser().decode("utf-8", "replace"),
            request.getPassword().decode("utf-8", "replace"),
        )
        port = getattr(request.getClientAddress(), "port", 0)
        login = self._accounts.authenticate(credentials, is_loopback, f"{host}:{port}")
        if login.is_settled:
            return self._entered(request, path, described, login)
        gone: list[bool] = []
        request.notifyFinish().addErrback(lambda _: gone.append(True))

        def settled() -> None:
            if not gone:
                request.write(self._entered(request, path, described, login))
                request.finish()

        login.on_settled = settled
        return NOT_DONE_YET

    def _entered(
        self, request: Request, path: str, described: dict[str, Any], login: Login
    ) -> bytes:
        try:
            login.identity()
        except AccessRefused:
            request.setHeader(b"WWW-Authenticate", b'Basic realm="gridmsg"')
            return _answer(request, 401, {"error": "not_authorized", "reason": "a login is needed"})
        return self._tell(request, path, described)

    def _tell(self, request: Request, path: str, described: dict[str, Any]) -> bytes:
        if path == "/metrics":
            text = "\n".join(_metric_lines(described)) + "\n"
            return _write(request, 200, b"text/plain; version=0.0.4; charset=utf-8", text.encode())
        if path == "/api/overview":
            return _answer(request, 200, _overview(described))
        if path == "/api/queues":
            return _answer(request, 200, [])
        return _answer(request, 503, {"error": "standby", "reason": _where(described)})


def _lease(described: dict[str, Any]) -> dict[str, Any]:
    return {key: described.get(key) for key in ("epoch", "active", "renewed_seconds_ago", "reason")}


def _where(described: dict[str, Any]) -> str:
    active = described.get("active") or {}
    if not active:
        return f"this broker is {described['role']}"
    return (
        f"this broker is {described['role']}: process {active.get('pid')} on {active.get('host')} is active"
        + (f" ({active['addresses']})" if active.get("addresses") else "")
    )


def _overview(described: dict[str, Any]) -> dict[str, Any]:
    return {
        "node": described.get("name"),
        "product_name": "gridmsg",
        "product_version": _version(),
        "listeners": [],
        "object_totals": {},
        "gridmsg": described,
    }


def _version() -> str:
    try:
        return installed_version("gridmsg")
    except PackageNotFoundError:
        return "unknown"


def _metric_lines(described: dict[str, Any]) -> Iterator[str]:
    values = {
        "gridmsg_up": 0,
        "gridmsg_standby": int(described["role"] == "standby"),
        "gridmsg_epoch": described.get("epoch") or 0,
        "gridmsg_lease_age_seconds": described.get("renewed_seconds_ago") or 0.0,
    }
    for name, value in values.items():
        yield f"# HELP {name} {GAUGES[name]}"
        yield f"# TYPE {name} gauge"
        yield f"{name} {value}"


def _answer(request: Request, status: int, value: Any) -> bytes:
    body = json.dumps(value, ensure_ascii=False, default=str).encode()
    return _write(request, status, b"application/json", body)


def _write(request: Request, status: int, content_type: bytes, body: bytes) -> bytes:
    request.setResponseCode(status, http.RESPONSES.get(status, b""))
    request.setHeader(b"Content-Type", content_type)
    request.setHeader(b"Content-Length", str(len(body)).encode())
    return body if request.method != b"HEAD" else b""
