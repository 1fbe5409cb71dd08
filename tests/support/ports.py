"""Ports for servers of tests, by one rule that no load, and no second run beside, can break.

Never from the kernel's ephemeral range: between choosing and binding, and while a killed server is started again, such a port goes
to any client's connection (or a client connects to itself).  Each is held by a lock of this process until it ends, so that two
runs choose different ones, and none is given twice before all were: what still tries to reach a server of a former test does
not find the next one.
"""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

SHIFTED: Final = (5671, 5672, 8880, 15671, 15672, 15673, 15674, 61613, 61614)
"""Ports that `--port-offset` shifts, and their neighbors for TLS."""
OFFSETS: Final = range(100, 3100, 4)
"""So that no two of them meet: neither neighbors, nor 5672 of one and 8880 of another."""
SINGLES: Final = range(12_000, 15_700)
"""Between the shifted ones; the laboratory takes its own from 20000 on, and Linux gives clients theirs from 32768 on."""


class _Places:
    """Numbers given in turn from a start of this process's own, each once held by its lock."""

    def __init__(self, numbers: range) -> None:
        self._numbers = numbers
        # Not from the generator that tests seed: they would all begin at the same number.
        self._next = random.SystemRandom().randrange(len(numbers))
        self._locks = -1

    def __iter__(self) -> Iterator[int]:
        for _ in self._numbers:
            number = self._numbers[self._next % len(self._numbers)]
            self._next += 1
            if self._holds(number):
                yield number

    def _holds(self, number: int) -> bool:
        """Lock one byte of a file that all runs of this user share; ours already, or free."""
        if self._locks < 0:
            path = Path(tempfile.gettempdir()) / f"gridmsg-test-ports-{os.getuid()}"
            self._locks = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.lockf(self._locks, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except OSError:
            return False
        return True


_offsets = _Places(OFFSETS)
_singles = _Places(SINGLES)


def free_offset() -> int:
    """A port offset at which all default ports are free, and stay so for others."""
    for offset in _offsets:
        if all(_is_free(port + offset) for port in SHIFTED):
            return offset
    pytest.fail("no free port offset found")


def free_port() -> int:
    """A port of loopback for one server."""
    for port in _singles:
        if _is_free(port):
            return port
    pytest.fail("no free port found")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            # Without SO_REUSEADDR: what a former connection still holds is not free.
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
