"""Whose turn it is: the streams of one connection are served a batch each, round and round.

Tests: tests/unit/broker/link/test_turns.py, tests/property/test_link_network.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeVar, final

OUTPUT_BYTES: Final = 256 << 10
"""Batches written at a time to one connection."""

Flow = TypeVar("Flow")


@final
class Turns:
    """Remembers who was served last."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last = 0

    def serve(
        self, flows: Sequence[Flow], left_bytes: float, take: Callable[[Flow], int | None]
    ) -> None:
        """Serve them until so many bytes went or nobody has anything; `take` gives a batch's bytes, or None for none."""
        idle_count = 0
        while left_bytes > 0 and idle_count < len(flows):
            self._last = (self._last + 1) % len(flows)
            size_bytes = take(flows[self._last])
            if size_bytes is None:
                idle_count += 1
            else:
                idle_count = 0
                left_bytes -= size_bytes
