"""What a session is to the rest of the broker: one peer's protocol state, without a socket.

Sessions are sans-I/O: bytes in by `receive_data`, bytes out by `output`.  The Turn (`net.turn`) calls
`end_turn` once for each session that woke in it, after the turn's unit went to the store.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Session(Protocol):
    """One peer's protocol state.

    Rules for promises.  What must wait for `fdatasync` (receipt or confirm of a persistent message, `-ok` of a durable
    declare, bind or delete, tx.commit-ok) is kept back until `end_turn(commit)` told the number of the commit that holds it
    and `on_durable(n)` with n ≥ commit came.  Confirms and receipts just queue up; for the other replies the session
    *holds*: it stops parsing further input of the connection (buffering it, bounded) until the reply is out, so order is kept.
    """

    is_closing: bool
    """True once the connection is to be closed when its output has been written."""

    @property
    def peer_closes_first(self) -> bool:
        """Whether, once `is_closing`, it is the peer that closes the socket: its protocol ends with what it was told last."""
        ...

    def receive_data(self, data: bytes) -> None:
        """Take bytes from the peer; never raises: a protocol error becomes output and `is_closing`."""
        ...

    def output(self) -> list[bytes]:
        """Hand over, and forget, the bytes to be written now."""
        ...

    def end_turn(self, commit: int) -> bool:
        """Everything done in this turn is in commit number `commit` (or needs none and is durable with it).

        Returns True when something of this turn waits for that commit: only then is `on_durable` called up to it.
        """
        ...

    def on_durable(self, commit: int) -> None:
        """All commits up to this number are on stable storage: release what waited for them."""
        ...

    def set_writable(self, is_writable: bool) -> None:
        """False while the socket's buffer is full: no more deliveries; True: dispatch again."""
        ...

    @property
    def is_holding(self) -> bool:
        """True while the session works on nothing that comes in: the socket need not be read."""
        ...

    def set_blocked(self, reason: str | None) -> bool:
        """Publishers must wait (`low on disk`, …), or with None need not any more.

        Returns True if the session itself holds its peer back at the next publish; False: stop reading from a
        peer that publishes.
        """
        ...

    def tick(self, now: float) -> None:
        """Time has come to `now` (Clock.now seconds): send heart-beats, give up on a silent peer or a late login."""
        ...

    def next_deadline(self) -> float | None:
        """When `tick` should be called next, or None."""
        ...

    def connection_lost(self, reason: str) -> None:
        """The socket is gone: requeue what was unsettled, drop subscriptions and exclusive queues."""
        ...

    def shutdown(self, text: str) -> None:
        """The broker stops: tell the peer in its protocol; `is_closing` is set then, or when the peer has answered."""
        ...


Wake = Callable[[Session], None]
"""Given to a session when made; it calls it whenever it has output or promises outside `receive_data` (deliveries, ticks)."""
