"""STOMP sessions over a core in memory: bytes in, bytes out, turns and the disk as the test says."""

from __future__ import annotations

from broker.session.auth import Accounts
from broker.session.stomp import StompSession
from broker.session.stomp_connect import StompLimits
from tests.support.core import Core


class House:
    """A broker with STOMP peers; each call of `say` is one turn."""

    def __init__(self, limits: StompLimits | None = None, accounts: Accounts | None = None) -> None:
        self.core = Core()
        self.limits = limits or StompLimits()
        self.accounts = accounts or Accounts.guest_only()
        self.peers: dict[str, StompSession] = {}
        self.woken: dict[StompSession, None] = {}
        self.written: dict[str, bytes] = {}

    def peer(self, name: str = "a", *, is_loopback: bool = True) -> StompSession:
        if name not in self.peers:
            self.peers[name] = StompSession(
                self.core.broker,
                self.accounts,
                self.limits,
                lambda session: self.woken.__setitem__(session, None),
                f"peer {name}",
                is_loopback,
                self.core.clock.now(),
            )
            self.written[name] = b""
        return self.peers[name]

    def connect(self, name: str = "a", version: str = "1.2", **options: bool) -> StompSession:
        session = self.peer(name, **options)
        accept = b"" if version == "1.0" else b"accept-version:%b\nhost:/\n" % version.encode()
        said = self.say(b"CONNECT\n" + accept + b"\n\0", name)
        assert said.startswith(b"CONNECTED\nversion:" + version.encode()), said
        return session

    def say(self, data: bytes, name: str = "a", *, is_durable: bool = True) -> bytes:
        """Let a peer send bytes, end the turn, and return what the broker writes to it."""
        session = self.peer(name)
        session.receive_data(data)
        self.turn(is_durable=is_durable)
        return self.read(name)

    def wait(self, seconds: float) -> None:
        """Let time pass, as the server's timer does."""
        if seconds:
            self.core.clock.seconds += seconds
            self.core.broker.tick()

    def turn(self, *, is_durable: bool = True) -> None:
        broker = self.core.broker
        for _ in range(50):
            broker.now_ms = self.core.clock.wall_ms()
            broker.dispatch()
            commit = self.core.store.commit(broker.take_unit())
            for session in self.peers.values():
                session.end_turn(commit)
                if is_durable:
                    session.on_durable(commit)
            self._collect()
            if not (broker.touched or broker.has_changes):
                return
        raise AssertionError("the broker does not come to rest")

    def _collect(self) -> None:
        for name, session in self.peers.items():
            self.written[name] += b"".join(session.output())

    def read(self, name: str = "a") -> bytes:
        said, self.written[name] = self.written[name], b""
        return said

    def lose(self, name: str = "a") -> None:
        """The peer's socket breaks."""
        self.peers.pop(name).connection_lost("gone")
        self.turn()


def body_of(frame: bytes) -> bytes:
    """The body of one whole frame."""
    return frame.partition(b"\n\n")[2].removesuffix(b"\0")
