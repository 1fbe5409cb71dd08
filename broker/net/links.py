"""The links of a running broker: dialed and accepted, watched, added and taken away.

Who dials tries the addresses in order, waits with decorrelated jitter, and opens further connections where the
kernel's buffers are too small for the round trip.  A listener for AMQP takes links, too: they are told by their first bytes.
Tests: tests/interop/test_links.py.
"""

from __future__ import annotations

import json
import logging
import random
import secrets
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, final

from twisted.internet.protocol import ClientFactory
from twisted.python.failure import Failure

from broker.errors import AccessRefused, BrokerError, ConfigError, NotFound, PreconditionFailed
from broker.link.backoff import Backoff
from broker.link.frames import OPENING, STRAND_OPENING, TOKEN_BYTES
from broker.link.session import LinkSession
from broker.link.settings import LinkSettings, Stream
from broker.link.strand import Strand
from broker.link.table import LinkTable
from broker.net.connection import Connection
from broker.net.kernel_buffers import connections_for, limit_bytes
from broker.session.sasl import CertificateLogin, Credentials, PasswordLogin

if TYPE_CHECKING:
    from broker.core.broker import Broker
    from broker.link.foreign import ForeignSession
    from broker.link.ports import DN, Authenticate, Login
    from broker.net.turn import Turn
    from broker.session.auth import Accounts
    from broker.session.base import Session, Wake
    from store.interface import Recovered

log = logging.getLogger(__name__)

CONNECT_SECONDS: Final = 10.0
RETRY_REFUSED_SECONDS: Final = 10.0
LINKS_MAX: Final = 1000
REDIAL_SECONDS: Final = 0.1
RATES_SECONDS: Final = 2.0
"""Over how long rates are counted."""


@final
class Dial:
    """One link that this broker dials, from its start to its end."""

    def __init__(self, links: Links, settings: LinkSettings) -> None:
        self.settings = settings
        self.session: LinkSession | ForeignSession | None = None
        self.last_error = ""
        self.failing_since_ms = 0
        self.attempt_count = 0
        self.up_count = 0
        self._links = links
        self._backoff = Backoff(
            settings.retry_seconds,
            settings.retry_seconds_max,
            random.Random(),  # noqa: S311 - jitter
        )
        self._address = 0
        self._timer: Any = None
        self._connector: Any = None
        self._is_stopped = False
        self._has_strands = False

    @property
    def address(self) -> tuple[str, int]:
        """The address that is tried, or connected to."""
        return self.settings.addresses[self._address % len(self.settings.addresses)]

    def start(self) -> None:
        """Dial now."""
        self._timer = None
        if self._is_stopped:
            return
        self.attempt_count += 1
        self._has_strands = False
        host, port = self.address
        factory = DialFactory(self._links, self._make_session, self._not_connected)
        try:
            self._connector = self._links.connect(host, port, factory, self.settings)
        except (OSError, ValueError) as error:
            self._ended(f"{host}:{port}: {error}")

    def _make_session(self, peer: str, is_loopback: bool, wake: Wake) -> Session:
        table = self._links.table
        clock = table.broker.clock
        settings = self.settings
        if settings.protocol == "amqp":
            from broker.link.foreign_amqp import AmqpLink

            self.session = AmqpLink(table, clock, wake, settings, self._ended, peer)
        elif settings.protocol == "stomp":
            from broker.link.foreign_stomp import StompLink

            self.session = StompLink(table, clock, wake, settings, self._ended, peer)
        else:
            self.session = LinkSession(
                table,
                clock,
                wake,
                secrets.token_bytes(TOKEN_BYTES),
                settings=settings,
                on_ended=self._ended,
                peer=peer,
            )
        return self.session

    def _not_connected(self, reason: str) -> None:
        host, port = self.address
        self._ended(f"{host}:{port}: {reason}")

    def _ended(self, reason: str) -> None:
        session, self.session = self.session, None
        links = self._links
        now_ms = links.table.broker.clock.wall_ms()
        if session is not None and session.up_at_ms:
            self._backoff.lasted((now_ms - session.up_at_ms) / 1000)
            self.failing_since_ms = 0
        else:
            self._address += 1
        self.last_error = reason
        self.failing_since_ms = self.failing_since_ms or now_ms
        if self._is_stopped:
            return
        wait_seconds = self._backoff.next_wait()
        log.warning("link %s: %s; again in %.1f s", self.settings.name, reason, wait_seconds)
        self._timer = links.call_later(wait_seconds, self.start)

    def look(self, now: float) -> None:
        """Open further connections where they help; begin anew when a stream was refused."""
        session = self.session
        if session is None or not session.is_up or session.is_closing:
            return
        if self.failing_since_ms:
            self.failing_since_ms = 0
        if not self._has_strands and session.round_trip_ms is not None:
            self._has_strands = True
            self.up_count += 1
            wanted = self.settings.connections
            if isinstance(session, LinkSession) and not wanted:
                wanted = connections_for(session.round_trip_ms, limit_bytes())
            if isinstance(session, LinkSession):
                for _ in range(wanted - 1):
                    self._open_strand(session)
        if session.refused_at and now >= session.refused_at + RETRY_REFUSED_SECONDS:
            session.fail(session.last_error or "a stream was refused", is_told=False)

    def _open_strand(self, session: LinkSession) -> None:
        def make(peer: str, is_loopback: bool, wake: Wake) -> Session:
            return Strand(session, wake, is_dialer=True)

        def failed(reason: str) -> None:
            log.warning(
                "link %s: one more connection failed: %s; it goes on with fewer",
                self.settings.name,
                reason,
            )

        host, port = self.address
        self._links.connect(host, port, DialFactory(self._links, make, failed), self.settings)

    def drop(self, streams: Iterable[Stream]) -> dict[str, int]:
        """Take streams away for good; returns the messages that stay in their buffers on this side, by queue."""
        table = self._links.table
        session = self.session
        gone = set(streams)
        kept: dict[str, int] = {}
        for number, stream in enumerate(self.settings.streams):
            if stream not in gone:
                continue
            if session is not None and session.is_up:
                session.forget_stream(number)
            if stream.is_push:
                kept |= table.drop_stream(self.settings.name, stream)
        return kept

    def stop(self, text: str) -> None:
        """End the link; nothing is dialed any more."""
        if self._is_stopped:
            return
        self._is_stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        session = self.session
        if session is not None:
            session.fail(text)
        elif self._connector is not None:
            self._connector.disconnect()


@final
class DialFactory(ClientFactory):
    """Makes the one connection of a dialed socket."""

    noisy = False

    def __init__(
        self,
        links: Links,
        make_session: Callable[[str, bool, Wake], Session],
        failed: Callable[[str], None],
    ) -> None:
        self._links = links
        self._make_session = make_session
        self._failed = failed

    def buildProtocol(self, addr: Any) -> Connection:  # noqa: N802 - Twisted's name
        return self._links.make_connection(self._make_session)

    def clientConnectionFailed(self, connector: Any, reason: Failure) -> None:  # noqa: N802 - Twisted's name
        self._failed(reason.getErrorMessage())


@final
class Links:
    """All links of a broker, and what they share."""

    def __init__(
        self,
        broker: Broker,
        turn: Turn,
        reactor: Any,
        connections: dict[Connection, None],
        accounts: Accounts,
        name: str,
        read_row: Callable[[dict[str, Any]], LinkSettings],
        show_row: Callable[[LinkSettings], dict[str, Any]],
        read_configured: Callable[[], Iterable[LinkSettings]],
    ) -> None:
        self._read_row = read_row
        self._show_row = show_row
        self._read_configured = read_configured
        self._configured: dict[str, LinkSettings] = {}
        self._added: dict[str, LinkSettings] = {}
        self._broker = broker
        self._turn = turn
        self._reactor = reactor
        self._connections = connections
        self._accounts = accounts
        self._name = name
        self._is_started = False
        self._rates_at = 0.0
        self.dials: dict[str, Dial] = {}

    def restore(self, recovered: Recovered) -> None:
        """Take over what the store holds; before any session."""
        self.table = LinkTable(self._broker, recovered.store_id, secrets.token_hex(8), self._name)
        self.table.restore(recovered.definitions)

    # Adding and taking away

    def configure(
        self, configured: Iterable[LinkSettings], definitions: Mapping[str, dict[str, Any]]
    ) -> None:
        """At start: have the links of the configuration file, and those of the store whose names it does not use."""
        self._configured = {one.name: one for one in configured}
        for key, made in definitions.items():
            if not key.startswith('["link",'):
                continue
            name = json.loads(key)[1]
            try:
                self._added[name] = self._read_row(made["row"])
            except BrokerError as error:
                log.error("link %s is stored, and cannot be taken up: %s", name, error.text)
        self._follow()
        dials = self.dials.values()
        self.table.disown(
            {(dial.settings.name, one) for dial in dials for one in dial.settings.streams}
        )

    def reload(self) -> dict[str, Any]:
        """Read `[[link]]` anew and follow it while running; says what was done.  Raises PreconditionFailed.

        A link that did not change is left alone.  Of one that changed, streams that stay go on where they were.
        """
        try:
            configured = {one.name: one for one in self._read_configured()}
        except ConfigError as error:
            raise PreconditionFailed(str(error)) from None
        self._configured = configured
        return self._follow()

    def _follow(self) -> dict[str, Any]:
        """Make the dials what is configured now; the file stands above what was added by command."""
        for name in self._added.keys() & self._configured.keys():
            log.warning("link %s: the configuration file stands above what is stored", name)
        wanted = {**self._added, **self._configured}
        told: dict[str, Any] = {"added": [], "changed": [], "removed": [], "kept": {}}
        for name, dial in list(self.dials.items()):
            settings = wanted.get(name)
            if settings == dial.settings:
                continue
            told["removed" if settings is None else "changed"].append(name)
            told["kept"] |= self._end(dial, settings)
            if settings is not None:
                # A little later: the far side should see the end of the one before first.
                self._begin(settings, REDIAL_SECONDS)
        for name, settings in wanted.items():
            if name not in self.dials:
                told["added"].append(name)
                self._begin(settings, 0)
        if any(told.values()):
            self._turn.schedule()
        return told

    def _begin(self, settings: LinkSettings, seconds: float) -> None:
        self.dials[settings.name] = dial = Dial(self, settings)
        if self._is_started:
            self._reactor.callLater(seconds, dial.start)

    def _end(self, dial: Dial, after: LinkSettings | None) -> dict[str, int]:
        """Stop a link; streams that it will not have any more are given up.  Returns the messages that stay, by queue."""
        del self.dials[dial.settings.name]
        still = {one.given for one in after.streams} if after is not None else set()
        kept = dial.drop([one for one in dial.settings.streams if one.given not in still])
        dial.stop("the link was taken away" if after is None else "the link was changed")
        return kept

    def row(self, name: str) -> dict[str, Any] | None:
        """How a link is configured, without its password."""
        dial = self.dials.get(name)
        return None if dial is None else self._show_row(dial.settings)

    def put(self, name: str, row: dict[str, Any]) -> bool:
        """Add or replace a link; True if it is new.  Raises BrokerError."""
        before = self.dials.get(name)
        if before is not None:
            if before.settings.origin == "configuration":
                raise PreconditionFailed(
                    f"link '{name}' is in the configuration file: change it there"
                )
            row.setdefault("password", before.settings.password)
        elif len(self.dials) >= LINKS_MAX:
            raise PreconditionFailed(f"there are {LINKS_MAX} links, the bound")
        self._added[name] = self._read_row(row)
        self._broker.unit.define(json.dumps(["link", name]), {"row": row})
        self._turn.schedule()
        self._follow()
        return before is None

    def delete(self, name: str) -> dict[str, int]:
        """Take a link away; returns the messages that stay in its buffers, by queue.  Raises BrokerError."""
        dial = self.dials.get(name)
        if dial is None:
            raise NotFound(f"no link '{name}' is dialed from here")
        if dial.settings.origin == "configuration":
            raise PreconditionFailed(f"link '{name}' is in the configuration file: delete it there")
        del self._added[name]
        self._broker.unit.define(json.dumps(["link", name]), None)
        self._turn.schedule()
        kept: dict[str, int] = self._follow()["kept"]
        return kept

    # Dialing

    def start(self) -> None:
        """Clients may come: dial."""
        self._is_started = True
        for dial in self.dials.values():
            dial.start()

    def connect(self, host: str, port: int, factory: ClientFactory, settings: LinkSettings) -> Any:
        """Dial one address."""
        if settings.tls is not None:
            from broker.net.link_tls import secured_client

            factory = secured_client(settings.tls, host, factory)
        return self._reactor.connectTCP(host, port, factory, timeout=CONNECT_SECONDS)

    def call_later(self, seconds: float, call: Callable[[], None]) -> Any:
        """The reactor's."""
        return self._reactor.callLater(seconds, call)

    def make_connection(self, make_session: Callable[[str, bool, Wake], Session]) -> Connection:
        """A connection for a dialed socket."""
        return Connection(
            self._broker,
            self._turn,
            make_session,
            self._reactor.callLater,
            (self._connections,),
        )

    # Accepting

    def sniff(self, first: bytes, peer: str, wake: Wake) -> tuple[Session, bytes] | bool | None:
        """Look at the first bytes of a connection: a link's session and its bytes, True to wait for more, None: no link."""
        if OPENING.startswith(first[: len(OPENING)]):
            if len(first) < len(OPENING):
                return True
            session = LinkSession(
                self.table,
                self._broker.clock,
                wake,
                b"",
                authenticate=self._authenticator(peer),
                peer=peer,
            )
            return session, first
        if STRAND_OPENING.startswith(first[: len(STRAND_OPENING)]):
            end = len(STRAND_OPENING) + TOKEN_BYTES
            if len(first) < end:
                return True
            joined = self.table.find_session(first[len(STRAND_OPENING) : end])
            if joined is None:
                return None
            return Strand(joined, wake, is_dialer=False), first[end:]
        return None

    def _authenticator(self, peer: str) -> Authenticate:
        """Who a dialing broker is, by its password or, without a user name, by its certificate."""
        host = peer.rpartition(":")[0]
        is_loopback = not host or host == "::1" or host.startswith("127.")

        def authenticate(user: str, password: str, subject: DN | None) -> Login:
            if user:
                credentials: Credentials = PasswordLogin(user, password)
            elif subject is not None:
                credentials = CertificateLogin(subject)
            else:
                raise AccessRefused("neither a user name nor a client certificate was shown")
            return self._accounts.authenticate(credentials, is_loopback, peer)

        return authenticate

    # Life

    def look(self) -> None:
        """See to demand, strands and refused streams; some times a second."""
        self.table.look()
        if self._broker.has_changes:
            self._turn.schedule()
        now = self._broker.clock.now()
        for dial in list(self.dials.values()):
            dial.look(now)
        if now >= self._rates_at + RATES_SECONDS:
            self._rates_at = now
            for session in self.table.sessions.values():
                session.note_rates(now)

    def stop(self) -> None:
        """The broker stops."""
        for dial in self.dials.values():
            dial.stop("the broker stops")

    def describe(self) -> list[dict[str, Any]]:
        """All links, for status, API and metrics."""
        from broker.net.link_status import describe

        return describe(self)
