"""Which seeds a simulation runs: GRIDMSG_…_SEEDS="first:count", or a count alone; short by default."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator


def seeds(variable: str, count: int) -> range:
    """The seeds that the environment asks for; the first `count` when it does not."""
    first, _, number = os.environ.get(variable, str(count)).rpartition(":")
    start = int(first or "0")
    return range(start, start + int(number))


@contextlib.contextmanager
def no_logs() -> Iterator[None]:
    """Keep what thousands of histories log from being kept."""
    logging.disable()
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
