"""Connections that have not logged in, counted by where they come from, over all listeners.

Invariant: one source (an address; of IPv6 a network of 64 bits) never holds more than `count_max` of them, so that one machine cannot take
the places of all others by connecting and saying nothing; this machine itself may hold LOOPBACK_TIMES as many, since a proxy on it stands
for many.  A login ends the count, and so does the end of the connection.
Looked at when a connection comes, logs in and goes, never in between.
Tests: tests/unit/broker/net/test_strangers.py, tests/unit/broker/net/test_admission.py, tests/interop/test_attacks.py.
"""

from __future__ import annotations

from typing import Final, final

from broker.session.guesses import source_of

STRANGERS_MAX: Final = 1000
LOOPBACK_TIMES: Final = 10
LOOPBACK: Final = ("127.", "::/64")


@final
class Strangers:
    """Who has connected and not logged in; a peer is "ADDRESS:PORT", as sessions have it."""

    __slots__ = ("_peers", "count_max")

    def __init__(self, count_max: int = STRANGERS_MAX) -> None:
        self.count_max = count_max
        self._peers: dict[str, set[str]] = {}

    def come(self, peer: str) -> bool:
        """Count a new connection; False, and nothing is counted, where its source has too many already."""
        if self.count(peer) >= self.bound(peer):
            return False
        self._peers.setdefault(source_of(peer), set()).add(peer)
        return True

    def go(self, peer: str) -> None:
        """It has logged in, or is gone.  Twice is once."""
        source = source_of(peer)
        peers = self._peers.get(source)
        if peers is not None:
            peers.discard(peer)
            if not peers:
                del self._peers[source]

    def bound(self, peer: str) -> int:
        """How many there may be from where this one comes from."""
        is_loopback = source_of(peer).startswith(LOOPBACK)
        return self.count_max * LOOPBACK_TIMES if is_loopback else self.count_max

    def count(self, peer: str) -> int:
        """How many there are from where this one comes from."""
        return len(self._peers.get(source_of(peer), ()))
