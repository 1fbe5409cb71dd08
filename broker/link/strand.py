"""A further connection of a link, where one connection's buffers are the limit.

It carries batches of the same sequence of frames as the session that it joins; that one sees to everything else.
Tests: tests/property/test_link_network.py, tests/interop/test_links.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from broker.link import frames
from broker.link.frames import FrameParser

if TYPE_CHECKING:
    from broker.link.ports import DN, Wake
    from broker.link.session import LinkSession


@final
class Strand:
    """A further connection of a link: carries batches of the same sequence of frames."""

    def __init__(self, session: LinkSession, wake: Wake, *, is_dialer: bool) -> None:
        self._session = session
        self._wake = wake
        self._parser = FrameParser(frames.FRAME_BYTES_MAX)
        self._first = [frames.STRAND_OPENING + session.token] if is_dialer else []
        self._is_writable = True
        self.is_closing = False
        self.certificate: DN | None = None
        self.heard_at = session.clock.now()
        session.strands.append(self)
        wake(self)

    def receive_data(self, received: bytes) -> None:
        """Take bytes of this connection."""
        self.heard_at = self._session.clock.now()
        session = self._session
        session.received_bytes += len(received)
        if self.is_closing or session.is_closing:
            return
        session.attempt(self._take, received)
        session.wake_up()

    def _take(self, received: bytes) -> None:
        for frame in self._parser.feed(received):
            self._session.take_frame(frame)

    def output(self) -> list[bytes]:
        """Batches, while the socket takes them."""
        made, self._first = self._first, []
        if self._is_writable and not self.is_closing:
            made += self._session.strand_output(self)
        return made

    def wake_up(self) -> None:
        """Have this connection written to."""
        self._wake(self)

    def end_turn(self, commit: int) -> bool:
        """The session sees to promises."""
        return False

    def on_durable(self, commit: int) -> None:
        """The session sees to promises."""

    def set_writable(self, is_writable: bool) -> None:
        """False while the socket's buffer is full."""
        self._is_writable = is_writable
        if is_writable:
            self._wake(self)

    @property
    def peer_closes_first(self) -> bool:
        """Either end may close."""
        return False

    @property
    def is_holding(self) -> bool:
        """There is nothing to wait for."""
        return False

    def set_blocked(self, reason: str | None) -> bool:
        """The session tells the far side."""
        return True

    def tick(self, now: float) -> None:
        """The session has the heart-beats."""

    def next_deadline(self) -> float | None:
        return None

    def connection_lost(self, reason: str) -> None:
        """One connection gone, all gone: frames are missing."""
        if not self.is_closing:
            self.is_closing = True
            self._session.fail(f"one of several connections was lost: {reason}")

    def shutdown(self, text: str) -> None:
        """The broker stops."""
        self.is_closing = True

    def recheck(self) -> None:
        """The session sees to accounts."""
