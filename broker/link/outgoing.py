"""The frames that one end sends: their sequence over all connections, batches of all streams in turn, no faster than allowed.

Frames of control go before all batches that wait.  Tests: tests/unit/broker/link/test_outgoing.py,
tests/unit/broker/link/test_session.py, tests/property/test_link_network.py.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, final

from broker.link import frames
from broker.link.turns import OUTPUT_BYTES, Turns

if TYPE_CHECKING:
    from broker.clock import Clock
    from broker.link.packing import Packing
    from broker.link.ports import BatchSource

SAVED_SECONDS: Final = 0.25
"""Of a rate, what was not used so long ago at most may be used later."""


@final
class Allowance:
    """How many bytes may go now; a rate of 0 is none."""

    __slots__ = ("_at", "_bytes", "_clock", "rate_bytes")

    def __init__(self, clock: Clock, rate_bytes: int) -> None:
        self.rate_bytes = rate_bytes
        self._clock = clock
        self._at = clock.now()
        self._bytes = 0.0

    def left(self, most: int) -> float:
        """How many bytes may go now, up to `most`; none if it is 0 or less."""
        rate = self.rate_bytes
        if not rate:
            return most
        now = self._clock.now()
        self._bytes = min(rate * SAVED_SECONDS, self._bytes + (now - self._at) * rate)
        self._at = now
        return min(float(most), self._bytes)

    def spend(self, count: int) -> None:
        """So many bytes went; a frame is never cut, so it may be more than were left."""
        self._bytes -= count


@final
class Outgoing:
    """The frames of one direction of a link, on all its connections."""

    __slots__ = ("_control", "_packing", "_sequence", "_turns", "allowance")

    def __init__(self, allowance: Allowance, packing: Packing) -> None:
        self.allowance = allowance
        self._packing = packing
        self._control: deque[tuple[int, bytes]] = deque()
        self._sequence = 0
        self._turns = Turns()

    def add(self, kind: int, payload: bytes) -> None:
        """Have a frame sent before all batches."""
        self._control.append((kind, payload))

    def add_raw(self, raw: bytes) -> None:
        """Have bytes sent that are no frame: the opening."""
        self._control.append((-1, raw))

    def take_control(self) -> list[bytes]:
        """Hand over the frames that were added."""
        made: list[bytes] = []
        control = self._control
        while control:
            kind, payload = control.popleft()
            made.append(payload if kind < 0 else self._encoded(kind, payload))
        return made

    def take_batches(self, flows: Sequence[BatchSource], made: list[bytes]) -> None:
        """Take batches of all streams in turn, up to what is written at a time and allowed by the rate."""

        def take(flow: BatchSource) -> int | None:
            payload = flow.next_batch()
            if payload is None:
                return None
            one = self._encoded_batch(payload)
            self.allowance.spend(len(one))
            made.append(one)
            return len(one)

        self._turns.serve(flows, self.allowance.left(OUTPUT_BYTES), take)

    def _encoded_batch(self, payload: bytes) -> bytes:
        packed = self._packing.squeeze(payload)
        if packed is None:
            return self._encoded(frames.BATCH, payload)
        return self._encoded(frames.BATCH | frames.PACKED, packed)

    def _encoded(self, kind: int, payload: bytes) -> bytes:
        sequence = self._sequence
        self._sequence = (sequence + 1) % frames.SEQUENCE_END
        return frames.encode(kind, sequence, payload)
