"""Failed logins by where they came from: whoever guesses passwords waits before each further guess is looked at.

Two tallies for each guess: of the address together with the name, which soon gets slow, and of the address alone, which bears
a host with many clients.  The same wrong password again is no guess: a client with an old one in its configuration slows down nobody,
itself included.  Invariants: the table is bounded, the wait is bounded, and nothing of a password is kept but a keyed hash.  Pure:
time comes as an argument.  Tests: tests/unit/broker/session/test_guesses.py, tests/property/test_guesses.py.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Final, final

TALLIES_MAX: Final = 20_000
"""Addresses, and pairs of address and name; the one that failed longest ago is forgotten first."""
WRONG_MAX: Final = 8
"""Wrong passwords known of one tally."""
WAIT_SECONDS_MAX: Final = 10.0
"""Longest wait; a guess that would have to wait longer is refused without a look."""


@final
@dataclass(frozen=True, slots=True)
class Pace:
    """How guesses of one tally slow down.

    `free_count` failures cost nothing.  From then on one guess is looked at every `first_seconds`, twice as long with each
    failure up to `longest_seconds`.  A failure is forgotten every `forget_seconds`; more than `count_max` are not counted.
    """

    free_count: int
    first_seconds: float
    longest_seconds: float
    forget_seconds: float
    count_max: int

    def interval_seconds(self, failures: float) -> float:
        """Time between two looks after so many failures."""
        over = int(failures) - self.free_count
        if over < 0:
            return 0.0
        return float(min(self.longest_seconds, self.first_seconds * 2.0 ** min(over, 30)))


NAME_PACE: Final = Pace(5, 0.25, 5.0, 30.0, 20)
"""For one name from one address: ten minutes after the last failure all is forgotten."""
ADDRESS_PACE: Final = Pace(100, 0.1, 0.2, 1.0, 300)
"""For one address, whatever the names: a proxy or a site behind one address must still get its logins through."""


@final
class _Tally:
    __slots__ = ("at", "failures", "next_at", "wrong")

    def __init__(self, now: float) -> None:
        self.failures = 0.0
        self.at = now
        self.next_at = now
        self.wrong: dict[bytes, None] = {}


@final
class FailedLogins:
    """The tallies of one broker."""

    __slots__ = ("_tallies",)

    def __init__(self) -> None:
        self._tallies: dict[tuple[str, str | None], _Tally] = {}

    def __len__(self) -> int:
        return len(self._tallies)

    def is_known_wrong(self, source: str, name: str, digest: bytes) -> bool:
        """Whether this very guess has failed lately; `digest` stands for password and account as they are now."""
        tally = self._tallies.get((source, name))
        return tally is not None and digest in tally.wrong

    def wait_seconds(self, source: str, name: str, now: float) -> float | None:
        """Take a turn for one guess: how long it waits before it is looked at; None if that would be too long."""
        wait = 0.0
        taken = []
        for key, pace in ((source, name), NAME_PACE), ((source, None), ADDRESS_PACE):
            tally = self._tallies.get(key)
            if tally is None:
                continue
            _forget(tally, pace, now)
            interval = pace.interval_seconds(tally.failures)
            if interval:
                # A pause since the last guess does not make the next one free.
                turn_at = max(tally.next_at, now + interval)
                wait = max(wait, turn_at - now)
                taken.append((tally, turn_at, interval))
        if wait > WAIT_SECONDS_MAX:
            return None
        for tally, turn_at, interval in taken:
            tally.next_at = turn_at + interval
        return wait

    def failed(self, source: str, name: str, digest: bytes, now: float) -> None:
        """Count a guess that was wrong."""
        for key, pace in ((source, None), ADDRESS_PACE), ((source, name), NAME_PACE):
            tally = self._tallies.pop(key, None) or _Tally(now)
            while len(self._tallies) >= TALLIES_MAX:
                del self._tallies[next(iter(self._tallies))]
            self._tallies[key] = tally
            _forget(tally, pace, now)
            tally.failures = min(tally.failures + 1, pace.count_max)
            if key[1] is not None:
                tally.wrong.pop(digest, None)
                if len(tally.wrong) >= WRONG_MAX:
                    del tally.wrong[next(iter(tally.wrong))]
                tally.wrong[digest] = None

    def succeeded(self, source: str, name: str) -> None:
        """Forget the failures of a name whose owner has come from there; those of the address stay."""
        self._tallies.pop((source, name), None)


def _forget(tally: _Tally, pace: Pace, now: float) -> None:
    passed = max(0.0, now - tally.at)
    tally.failures = max(0.0, tally.failures - passed / pace.forget_seconds)
    tally.at += passed


def source_of(peer: str) -> str:
    """Where a peer comes from, as it is counted: its address, or the network of 64 bits of an IPv6 one.

    `peer` is "ADDRESS:PORT" or anything else, which stands for itself.
    """
    host, colon, port = peer.rpartition(":")
    if not colon or not port.isdecimal():
        return peer[:100]
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host[:100]
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((address, 64), strict=False))
