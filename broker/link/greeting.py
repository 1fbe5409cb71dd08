"""How one end of a link gets up: the opening bytes, HELLO with a login, WELCOME.

Who dials says who it is, as whom it logs in and how it would like to go on; who accepts finds out whether that user may open links.
While a login is checked, what comes meanwhile is kept.  Tests: tests/unit/broker/link/test_session.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, final

from broker.errors import AccessRefused, BrokerError, ProtocolViolation
from broker.link import frames
from broker.link.packing import choose_codec, known_codecs, make_codec
from broker.link.ports import LINK_TAGS

if TYPE_CHECKING:
    from broker.link.ports import Authenticate, Identity, Login
    from broker.link.session import LinkSession
    from broker.link.settings import LinkSettings

TLS_ALERT: Final = b"\x15\x03"
"""What a TLS listener answers to bytes in the clear begins so."""


@final
class Greeting:
    """The greeting at one end; `identity`: the user that the accepting end has let in."""

    __slots__ = ("_authenticate", "_held", "_login", "_opening", "_session", "identity")

    def __init__(self, session: LinkSession, authenticate: Authenticate | None) -> None:
        self._session = session
        self._authenticate = authenticate
        self._opening = b"" if session.is_dialer else frames.OPENING
        self._login: Login | None = None
        self._held: list[bytes] = []
        self.identity: Identity | None = None

    # The first bytes

    def take_opening(self, received: bytes) -> bytes:
        """Take the opening bytes off what the accepting end gets; raises ProtocolViolation."""
        rest = self._opening
        if not rest:
            return received
        count = min(len(rest), len(received))
        if received[:count] != rest[:count]:
            raise ProtocolViolation("this is not a link of a version that is spoken here")
        self._opening = rest[count:]
        return received[count:]

    # The dialing end

    def say_hello(self, settings: LinkSettings) -> None:
        """Begin as the end that dials."""
        session = self._session
        session.outgoing.add_raw(frames.OPENING)
        session.send(
            frames.HELLO,
            {
                "id": session.table.id,
                "name": session.table.name,
                "link": settings.name,
                "user": settings.user,
                "password": settings.password,
                "token": session.token,
                "window": settings.window_bytes,
                "heartbeat": settings.heartbeat_seconds,
                "packs": settings.compression,
                "codecs": known_codecs(),
            },
        )
        session.packing.mode = settings.compression

    def welcome(self, said: dict[str, Any]) -> None:
        """The far side has let us in."""
        session = self._session
        if not session.is_dialer or session.is_up:
            raise ProtocolViolation("a second welcome")
        session.peer_id = _bytes_of(said, "id", 16)
        session.peer_name = _text_of(said, "name")
        if session.peer_id == session.table.id:
            raise ProtocolViolation("a link to oneself: the far side has the same store id")
        session.packing.codec = make_codec(said["codec"])
        session.come_up()

    # The accepting end

    def hello(self, said: dict[str, Any]) -> None:
        """Find out who dials."""
        session = self._session
        if session.is_dialer or self._login is not None:
            raise ProtocolViolation("a second greeting")
        session.peer_id = _bytes_of(said, "id", 16)
        session.peer_name = _text_of(said, "name")
        session.name = _text_of(said, "link")
        session.token = _bytes_of(said, "token", 16)
        session.window_bytes = min(max(int(said["window"]), 64 << 10), 1 << 30)
        session.heartbeat_seconds = min(max(float(said["heartbeat"]), 0.1), 3600.0)
        session.packing.mode = _text_of(said, "packs")
        session.packing.codec = make_codec(choose_codec(said.get("codecs")))
        if session.peer_id == session.table.id:
            raise ProtocolViolation("a link to oneself: the two brokers have the same store id")
        assert self._authenticate is not None, "the accepting end knows accounts"
        login = self._authenticate(
            _text_of(said, "user"), _text_of(said, "password"), session.certificate
        )
        self._login = login
        if login.is_settled:
            self._logged_in(login)
        else:
            login.on_settled = self._settled_later

    def _settled_later(self) -> None:
        session = self._session
        if session.is_closing:
            return
        assert self._login is not None, "what was settled is this login"
        try:
            self._logged_in(self._login)
        except BrokerError as error:
            session.fail(error.text)
            return
        held, self._held = self._held, []
        for received in held:
            session.receive_data(received)
        session.wake_up()

    def _logged_in(self, login: Login) -> None:
        session = self._session
        identity = login.identity()
        if not _may_link(identity):
            raise AccessRefused(f"user '{identity.name}' may not open links: it lacks the tag link")
        self.identity = identity
        session.send(
            frames.WELCOME,
            {
                "id": session.table.id,
                "name": session.table.name,
                "codec": session.packing.codec.name,
            },
        )
        session.come_up()

    @property
    def is_holding(self) -> bool:
        """Whether a login is being checked."""
        return self._login is not None and not self._login.is_settled

    def hold(self, received: bytes) -> None:
        """Keep bytes that came while the login is checked."""
        self._held.append(received)

    def objection(self) -> str:
        """Why the user that was let in may not stay, after accounts changed; empty if it may."""
        identity = self.identity
        if identity is None or (identity.is_valid and _may_link(identity)):
            return ""
        return f"user '{identity.name}' may not open links any more"


def check_first(received: bytes) -> None:
    """Raise ProtocolViolation for an answer that is no frame of a greeting: who was dialed speaks something else."""
    if received.startswith(b"\0\0"[: len(received)]):
        return
    text = "the far side speaks no links: is the address that of its AMQP listener?"
    if received.startswith(TLS_ALERT):
        text = "the far side speaks TLS there: say tls = true"
    elif received.startswith(b"AMQP"):
        text = 'the far side speaks AMQP, but no links: say protocol = "amqp" if it is not gridmsg'
    raise ProtocolViolation(text)


def _may_link(identity: Identity) -> bool:
    return any(tag in LINK_TAGS for tag in identity.tags)


def _text_of(said: dict[str, Any], name: str) -> str:
    found = said[name]
    if not isinstance(found, str) or len(found) > 1000 or not (found.isprintable() or not found):
        raise ProtocolViolation(f"a greeting without a sound {name}")
    return found


def _bytes_of(said: dict[str, Any], name: str, count: int) -> bytes:
    found = said[name]
    if not isinstance(found, bytes) or len(found) != count:
        raise ProtocolViolation(f"a greeting without a sound {name}")
    return found
