"""The management listener: API at /api, health at /health, figures at /metrics, a status page at /.

Calls run in the reactor thread like sessions; a change is answered once the turn that holds it is on stable storage.
Every body, answer and login is bounded, and the time to ask (`patience`).  Errors are `{"error": …, "reason": …}` with RabbitMQ's statuses.
Tests: tests/unit/broker/management/test_api.py.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from types import MappingProxyType
from typing import Any, Final, Protocol, final
from urllib.parse import unquote, urlsplit

from twisted.web import http
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from broker.core.broker import Broker
from broker.errors import AccessRefused, BrokerError, NotFound, ProtocolViolation
from broker.management import access, letters, links, metrics, operations
from broker.management.call import MADE, BadCall, Call, CloseConnection, Slow
from broker.management.page import PAGE
from broker.management.patience import patient
from broker.session.accounts import AccountRegister
from broker.session.auth import Accounts, Identity, Login
from broker.session.base import Session
from broker.session.origin import PROXY_HEADERS, is_own_name, is_own_page
from broker.session.sasl import PasswordLogin

log = logging.getLogger(__name__)

BODY_BYTES_MAX: Final = 12 << 20
ANSWER_BYTES_MAX: Final = 64 << 20

Route = tuple[str, tuple[str, ...], Callable[[Call], Any]]

ROUTES: Final[tuple[Route, ...]] = (
    ("GET", ("overview",), operations.overview),
    ("GET", ("whoami",), operations.whoami),
    ("GET", ("vhosts",), operations.vhosts),
    ("GET", ("vhosts", "*"), access.vhost),
    ("PUT", ("vhosts", "*"), access.put_vhost),
    ("DELETE", ("vhosts", "*"), access.delete_vhost),
    ("GET", ("vhosts", "*", "permissions"), access.permissions_of_vhost),
    ("GET", ("users",), access.users),
    ("GET", ("users", "*"), access.user),
    ("PUT", ("users", "*"), access.put_user),
    ("DELETE", ("users", "*"), access.delete_user),
    ("GET", ("users", "*", "permissions"), access.permissions_of_user),
    ("GET", ("users", "*", "topic-permissions"), access.topic_permissions_of_user),
    ("GET", ("permissions",), access.permissions),
    ("GET", ("permissions", "*", "*"), access.permission),
    ("PUT", ("permissions", "*", "*"), access.put_permission),
    ("DELETE", ("permissions", "*", "*"), access.delete_permission),
    ("GET", ("topic-permissions",), access.topic_permissions),
    ("GET", ("topic-permissions", "*", "*"), access.topic_permission),
    ("PUT", ("topic-permissions", "*", "*"), access.put_topic_permission),
    ("DELETE", ("topic-permissions", "*", "*"), access.delete_topic_permission),
    ("GET", ("connections",), operations.connections),
    ("DELETE", ("connections", "*"), operations.delete_connection),
    ("GET", ("definitions",), operations.definitions),
    ("GET", ("queues",), operations.queues),
    ("GET", ("queues", "*"), operations.queues),
    ("GET", ("queues", "*", "*"), operations.queue),
    ("PUT", ("queues", "*", "*"), operations.declare_queue),
    ("DELETE", ("queues", "*", "*"), operations.delete_queue),
    ("DELETE", ("queues", "*", "*", "contents"), operations.purge_queue),
    ("POST", ("queues", "*", "*", "get"), operations.get_messages),
    ("POST", ("queues", "*", "*", "move"), operations.move_messages),
    ("GET", ("queues", "*", "*", "bindings"), operations.queue_bindings),
    ("GET", ("exchanges",), operations.exchanges),
    ("GET", ("exchanges", "*"), operations.exchanges),
    ("GET", ("exchanges", "*", "*"), operations.exchange),
    ("PUT", ("exchanges", "*", "*"), operations.declare_exchange),
    ("DELETE", ("exchanges", "*", "*"), operations.delete_exchange),
    ("POST", ("exchanges", "*", "*", "publish"), operations.publish),
    ("GET", ("bindings",), operations.bindings),
    ("GET", ("bindings", "*"), operations.bindings),
    ("POST", ("bindings", "*", "e", "*", "*", "*"), operations.bind),
    ("DELETE", ("bindings", "*", "e", "*", "*", "*", "*"), operations.unbind),
    ("GET", ("deadletters", "*", "*"), letters.list_letters),
    ("GET", ("deadletters", "*", "*", "*"), letters.show),
    ("POST", ("deadletters", "*", "*", "redrive"), letters.redrive),
    ("POST", ("deadletters", "*", "*", "purge"), letters.purge),
    ("GET", ("links",), links.links),
    ("POST", ("links",), links.reload_links),
    ("GET", ("links", "*"), links.link),
    ("PUT", ("links", "*"), links.put_link),
    ("DELETE", ("links", "*"), links.delete_link),
)
"""Method, path under /api (`*` is a part handed to the function), function."""


class Turn(Protocol):
    """The part of `net.turn` that the API needs."""

    def begin(self) -> None:
        """Something comes in: time goes on."""
        ...

    def wake(self, session: Session) -> None:
        """See to a session at the end of this turn."""
        ...


def site(
    broker: Broker,
    accounts: Accounts,
    describe: Callable[[], dict[str, Any]],
    turn: Turn | None = None,
    register: AccountRegister | None = None,
    link_register: links.LinkRegister | None = None,
    close_connection: CloseConnection | None = None,
) -> Site:
    """The HTTP server of a broker.

    `describe` tells role, epoch, listeners, connections and store; `close_connection` ends one.  With a `turn`, changes are
    answered when they are durable; without one (in tests) at once.
    """
    register = register or AccountRegister(broker, accounts)
    made = patient(Api(broker, register, describe, turn, link_register, close_connection))
    made.requestFactory = BoundedRequest
    return made


class BoundedRequest(Request):
    """A request whose body is taken only if it says how long it is, at most BODY_BYTES_MAX, and comes with a login.

    Chunks, which no client of the API needs, cost the reader more than the sender.
    """

    _is_refused = False

    def gotLength(self, length: int | None) -> None:  # noqa: N802 - Twisted's name
        super().gotLength(0 if length is None else min(length, BODY_BYTES_MAX))  # type: ignore[no-untyped-call]
        if length is None:
            self._refuse(b"411 Length Required")
        elif length > BODY_BYTES_MAX:
            self._refuse(b"413 Content Too Large")
        elif length > 0 and self.getHeader("authorization") is None:
            self._refuse(b'401 Unauthorized\r\nWWW-Authenticate: Basic realm="gridmsg"')

    def _refuse(self, status: bytes) -> None:
        self._is_refused = True
        if self.channel is not None:
            transport: Any = self.channel.transport
            transport.write(
                b"HTTP/1.1 " + status + b"\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            )
            transport.loseConnection()

    def handleContentChunk(self, data: bytes) -> None:  # noqa: N802 - Twisted's name
        if not self._is_refused:
            super().handleContentChunk(data)  # type: ignore[no-untyped-call]

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:  # noqa: N802 - Twisted's name
        if not self._is_refused:
            super().requestReceived(command, path, version)  # type: ignore[no-untyped-call]


@final
class Promise:
    """A session that only waits until what was done in this turn is on stable storage."""

    def __init__(self, done: Callable[[], None]) -> None:
        self._done: Callable[[], None] | None = done
        self._commit: int | None = None
        self.is_closing = False
        self.peer_closes_first = False

    def end_turn(self, commit: int) -> bool:
        is_new = self._commit is None
        if is_new:
            self._commit = commit
        return is_new

    def on_durable(self, commit: int) -> None:
        done = self._done
        if done is not None and self._commit is not None and commit >= self._commit:
            self._done = None
            done()

    def receive_data(self, data: bytes) -> None:
        """Nothing is received."""

    def output(self) -> list[bytes]:
        return []

    @property
    def is_holding(self) -> bool:
        """There is no input."""
        return False

    def set_blocked(self, reason: str | None) -> bool:
        """It does not publish."""
        return True

    def set_writable(self, is_writable: bool) -> None:
        """There is no socket."""

    def tick(self, now: float) -> None:
        """Nothing is due."""

    def next_deadline(self) -> float | None:
        return None

    def connection_lost(self, reason: str) -> None:
        """There is no connection."""

    def shutdown(self, text: str) -> None:
        """Nothing is open."""


@final
class Api(Resource):
    """Everything the listener serves."""

    isLeaf = True  # noqa: N815 - Twisted's name

    def __init__(
        self,
        broker: Broker,
        register: AccountRegister,
        describe: Callable[[], dict[str, Any]],
        turn: Turn | None,
        link_register: links.LinkRegister | None = None,
        close_connection: CloseConnection | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._links = link_register
        self._close_connection = close_connection
        self._broker = broker
        self._register = register
        self._describe = describe
        self._turn = turn
        try:
            self._version = installed_version("gridmsg")
        except PackageNotFoundError:
            self._version = "unknown"

    def render(self, request: Request) -> Any:
        """Answer a request; Twisted calls it."""
        request.setHeader(b"Server", b"gridmsg")
        request.setHeader(b"Cache-Control", b"no-store")
        request.setHeader(b"X-Content-Type-Options", b"nosniff")
        path = request.path.split(b"?")[0].decode("latin-1")
        try:
            return self._serve(request, path)
        except Exception:
            log.exception("management: %s %s failed", request.method, path)
            return _answer(request, 500, _error("internal_error", "see the broker's log"))

    def _serve(self, request: Request, path: str) -> Any:
        is_read = request.method in (b"GET", b"HEAD")
        if is_read and path.startswith("/health/"):
            return self._health(request, path)
        if is_read and path == "/":
            request.setHeader(b"Content-Security-Policy", b"default-src 'self' 'unsafe-inline'")
            return _write(request, 200, b"text/html; charset=utf-8", PAGE)
        if is_read and path == "/metrics":
            if _is_loopback(request):
                return self._metrics(request)
            return self._with_login(request, lambda _: self._metrics(request))
        if path.startswith("/api/"):
            return self._with_login(request, lambda identity: self._api(request, path, identity))
        return _answer(
            request, 404, _error("not_found", "the API is at /api/, see docs/operating.md")
        )

    def _health(self, request: Request, path: str) -> Any:
        role = self._describe().get("role", "starting")
        if path == "/health/live":
            return _answer(request, 200, {"status": "ok", "role": role})
        if path == "/health/ready":
            is_ready = role == "active"
            return _answer(
                request,
                200 if is_ready else 503,
                {"status": "ok" if is_ready else "failed", "role": role},
            )
        return _answer(request, 404, _error("not_found", "/health/live or /health/ready"))

    def _metrics(self, request: Request) -> Any:
        text = metrics.render(self._broker, self._describe())
        return _write(request, 200, b"text/plain; version=0.0.4; charset=utf-8", text.encode())

    def _api(self, request: Request, path: str, identity: Identity) -> Any:
        parts = tuple(unquote(part) for part in path.removeprefix("/api/").rstrip("/").split("/"))
        if request.method in (b"GET", b"HEAD") and parts[0] in ("healthchecks", "health"):
            role = self._describe().get("role")
            status = 200 if role == "active" else 503
            return _answer(request, status, {"status": "ok" if status == 200 else "failed"})
        method = "GET" if request.method == b"HEAD" else request.method.decode("latin-1")
        found, allowed = _find(method, parts)
        if found is None:
            if allowed:
                request.setHeader(b"Allow", ", ".join(sorted(allowed)).encode())
                return _answer(request, 405, _error("method_not_allowed", f"{method} {path}"))
            return _answer(request, 404, _error("not_found", f"{path}: no such part of the API"))
        function, variable = found
        if method != "GET" and not _is_same_origin(request):
            return _answer(request, 403, _error("not_authorized", "a page of another origin asked"))
        return self._do(request, identity, method, function, variable)

    def _do(
        self,
        request: Request,
        identity: Identity,
        method: str,
        function: Callable[[Call], Any],
        variable: tuple[str, ...],
    ) -> Any:
        if self._turn is not None:
            self._turn.begin()
        try:
            result = function(
                Call(
                    self._broker,
                    identity,
                    variable,
                    _query(request),
                    _body(request),
                    self._describe,
                    self._version,
                    self._register,
                    self._links,
                    self._close_connection,
                )
            )
        except BrokerError as error:
            return self._refuse(request, error)
        if isinstance(result, Slow):
            return self._work(request, method, result)
        return self._tell(request, method, result)

    def _refuse(self, request: Request, error: BrokerError) -> Any:
        return self._settle(request, _status(error), _error(error.name.lower(), error.text))

    def _tell(self, request: Request, method: str, result: Any) -> Any:
        if method == "GET":
            return _answer(request, 200, result)
        if result is MADE:
            return self._settle(request, 201, None)
        return self._settle(request, 200 if result is not None else 204, result)

    def _work(self, request: Request, method: str, slow: Slow) -> Any:
        """Answer once the slow work is done, in the turn of who asked for it."""
        outcome: list[bool] = []

        def answer() -> Any:
            if not outcome:
                busy = _error("too_many_requests", "too much to hash at one time; try again")
                return _answer(request, 429, busy)
            try:
                return self._tell(request, method, slow.finish())
            except BrokerError as error:
                return self._refuse(request, error)

        later = _later(request, answer)

        def done(is_done: bool) -> None:
            outcome.append(is_done)
            later()

        self._register.accounts.work_later(_peer(request), slow.work, done, later)
        return NOT_DONE_YET

    def _settle(self, request: Request, status: int, result: Any) -> Any:
        """Answer when everything done so far is durable."""
        if self._turn is None or not (self._broker.has_changes or self._broker.touched):
            return _answer(request, status, result)
        self._turn.wake(Promise(_later(request, lambda: _answer(request, status, result))))
        return NOT_DONE_YET

    def _with_login(self, request: Request, then: Callable[[Identity], Any]) -> Any:
        """Answer by `then` once the caller has logged in; a password may take its time in another thread."""
        name, password = request.getUser(), request.getPassword()
        if not name:
            return _ask_for_login(request, "a login is needed (HTTP basic authentication)")
        login = self._register.accounts.authenticate(
            PasswordLogin(name.decode("utf-8", "replace"), password.decode("utf-8", "replace")),
            _is_loopback(request),
            _peer(request),
        )

        def answer() -> Any:
            return self._entered(request, login, then)

        if login.is_settled:
            return answer()
        login.on_settled = _later(request, answer)
        return NOT_DONE_YET

    @staticmethod
    def _entered(request: Request, login: Login, then: Callable[[Identity], Any]) -> Any:
        try:
            identity = login.identity()
        except AccessRefused as error:
            log.warning("management login from %s refused: %s", _host(request), error.text)
            return _ask_for_login(request, error.text)
        return then(identity)


def _later(request: Request, make: Callable[[], Any]) -> Callable[[], None]:
    """A call that answers a request for which NOT_DONE_YET was returned, unless the peer has gone."""
    gone: list[bool] = []
    request.notifyFinish().addErrback(lambda _: gone.append(True))

    def answer() -> None:
        if gone:
            return
        try:
            text = make()
        except Exception:
            log.exception("management: %s %s failed", request.method, request.path)
            text = _answer(request, 500, _error("internal_error", "see the broker's log"))
        if text is NOT_DONE_YET:
            return
        if request.method != b"HEAD":
            request.write(text)
        request.finish()

    return answer


def _find(
    method: str, parts: tuple[str, ...]
) -> tuple[tuple[Callable[[Call], Any], tuple[str, ...]] | None, set[str]]:
    """The function for a path with the path's variable parts, and which methods the path has."""
    allowed: set[str] = set()
    for route_method, pattern, function in ROUTES:
        if len(pattern) != len(parts) or any(
            one not in ("*", part) for one, part in zip(pattern, parts, strict=True)
        ):
            continue
        if route_method == method:
            variable = tuple(part for one, part in zip(pattern, parts, strict=True) if one == "*")
            return (function, variable), allowed
        allowed.add(route_method)
    return None, allowed


def _status(error: BrokerError) -> int:
    if isinstance(error, NotFound):
        return 404
    if isinstance(error, AccessRefused):
        return 403
    if isinstance(error, ProtocolViolation):
        return 400
    return 400 if isinstance(error, BadCall) or error.amqp_code < 541 else 500


def _query(request: Request) -> Mapping[str, str]:
    found = {}
    for name, texts in (request.args or {}).items():
        found[name.decode("utf-8", "replace")] = texts[-1].decode("utf-8", "replace")
    return MappingProxyType(found)


def _body(request: Request) -> Mapping[str, Any]:
    raw = request.content.read(BODY_BYTES_MAX) if request.content is not None else b""
    if not raw.strip():
        return {}
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        raise BadCall("the body is not JSON") from None
    if not isinstance(body, dict):
        raise BadCall("the body must be a JSON object")
    return body


def _host(request: Request) -> str:
    return str(getattr(request.getClientAddress(), "host", ""))


def _peer(request: Request) -> str:
    return f"{_host(request)}:{getattr(request.getClientAddress(), 'port', 0)}"


def _is_loopback(request: Request) -> bool:
    """Whether a program of this machine asks: no page of elsewhere in one of its browsers, and no proxy for others."""
    host = _host(request)
    if any(request.getHeader(name) is not None for name in PROXY_HEADERS):
        return False
    if not (is_own_name(request.getHeader("host") or "") and is_own_page(_origin(request))):
        return False
    return host == "::1" or host.startswith("127.") or host == ""


def _origin(request: Request) -> str:
    return request.getHeader("origin") or ""


def _is_same_origin(request: Request) -> bool:
    """Whether the caller is no browser page from elsewhere that rides on a stored login."""
    origin = request.getHeader("origin")
    return origin is None or urlsplit(origin).netloc == request.getHeader("host")


def _error(name: str, reason: str) -> dict[str, str]:
    return {"error": name, "reason": reason}


def _answer(request: Request, status: int, value: Any) -> bytes:
    if value is None and status in (201, 204):
        request.setResponseCode(status)
        if status == 201:
            request.setHeader(b"Content-Length", b"0")
        return b""
    body = json.dumps(value, ensure_ascii=False, default=str).encode()
    if len(body) > ANSWER_BYTES_MAX:
        status, body = 413, json.dumps(_error("too_large", "ask for less at a time")).encode()
    return _write(request, status, b"application/json", body)


def _ask_for_login(request: Request, reason: str) -> bytes:
    request.setHeader(b"WWW-Authenticate", b'Basic realm="gridmsg"')
    return _answer(request, 401, _error("not_authorized", reason))


def _write(request: Request, status: int, content_type: bytes, body: bytes) -> bytes:
    request.setResponseCode(status, http.RESPONSES.get(status, b""))
    request.setHeader(b"Content-Type", content_type)
    request.setHeader(b"Content-Length", str(len(body)).encode())
    return body if request.method != b"HEAD" else b""
