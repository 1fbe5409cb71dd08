"""How many connections a link needs so that the kernel's buffers do not bound it.

A connection carries at most what its buffers hold in one round trip.  More connections than needed cost: with four, the receiving
broker spends a third more a message (batches come out of turn, each is read alone).
Tests: tests/unit/broker/net/test_kernel_buffers.py.
"""

from __future__ import annotations

from math import ceil
from pathlib import Path
from typing import Final

LIMITS: Final = (Path("/proc/sys/net/ipv4/tcp_wmem"), Path("/proc/sys/net/ipv4/tcp_rmem"))
"""The kernel's least, first and largest size of a socket's buffers; those of this network namespace."""
LIMIT_BYTES_USUAL: Final = 4 << 20
USABLE_SHARE: Final = 0.5
"""Of a buffer, the rest is the kernel's accounts: of 4 MiB 2.2 MB were in flight (wan-measured.md)."""
WANTED_BYTES_PER_SECOND: Final = 48e6
"""What a broker forwards of 1 KiB messages when nothing else bounds it."""
CONNECTIONS_MAX: Final = 4


def connections_for(round_trip_ms: float, limit_bytes: int) -> int:
    """Return how many connections carry what a broker can forward, 1 to CONNECTIONS_MAX."""
    in_flight_bytes = WANTED_BYTES_PER_SECOND * round_trip_ms / 1000
    return max(1, min(CONNECTIONS_MAX, ceil(in_flight_bytes / (limit_bytes * USABLE_SHARE))))


def limit_bytes() -> int:
    """Return how large a socket's buffers may grow here; the usual 4 MiB where the kernel does not say."""
    try:
        return min(int(path.read_text().split()[2]) for path in LIMITS)
    except (OSError, ValueError, IndexError):
        return LIMIT_BYTES_USUAL
