"""What publishers remember of the header blocks they saw: a few each, and more from one room for all of them.

A publisher with ten thousand destinations repeats ten thousand blocks; remembered by every connection they would cost
gigabytes, forgotten they cost 18 us a message.  So beyond OWN_MAX plans a table takes from a room that is bounded in bytes for
the whole process.  When it is full, who missed as often as it remembers makes whoever took first give back all.
Tests: tests/unit/broker/session/test_stomp_plans.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from broker.session.stomp_send import SendPlan

OWN_MAX: Final = 64
"""Plans that every table may have."""
ROOM_BYTES: Final = 16 << 20
_BLOCK_BYTES_MAX: Final = 1024
"""Longer blocks are not remembered."""
_PLAN_BYTES: Final = 900
_HEADER_BYTES: Final = 80
_COPIES: Final = 6
"""What a plan takes besides its block, for each header, and how often the block's bytes are there (measured, with the parser's)."""


@final
class PlanRoom:
    """Bytes that tables take from, and who took them, in order."""

    __slots__ = ("_holders", "left_bytes")

    def __init__(self, size_bytes: int = ROOM_BYTES) -> None:
        self.left_bytes = size_bytes
        self._holders: dict[PlanTable, None] = {}

    def take(self, table: PlanTable, size_bytes: int) -> bool:
        """Take bytes for a table; False: there are not so many left."""
        if size_bytes > self.left_bytes:
            return False
        self.left_bytes -= size_bytes
        self._holders[table] = None
        return True

    def give_back(self, table: PlanTable, size_bytes: int) -> None:
        """A table has let go of all that it took."""
        self.left_bytes += size_bytes
        self._holders.pop(table, None)

    def begin_anew(self) -> None:
        """Have the table that took first let go of everything."""
        first = next(iter(self._holders), None)
        if first is not None:
            first.clear()


SHARED_ROOM: Final = PlanRoom()
"""The room of this process."""


@final
class PlanTable:
    """The plans of one connection, by header block.

    `on_clear` is called when they are forgotten: what else was remembered for them may go, too.
    """

    __slots__ = ("_missed_count", "_on_clear", "_room", "_taken_bytes", "plans")

    def __init__(self, room: PlanRoom, on_clear: Callable[[], None]) -> None:
        self.plans: dict[bytes, SendPlan] = {}
        self._room = room
        self._on_clear = on_clear
        self._taken_bytes = 0
        self._missed_count = 0

    def keep(self, block: bytes, plan: SendPlan) -> None:
        """Remember the plan of a block, as far as there is room."""
        plans = self.plans
        if len(block) > _BLOCK_BYTES_MAX:
            return
        if len(plans) >= OWN_MAX and not self._take(block):
            self._missed_count += 1
            if self._missed_count < len(plans):
                return
            self._missed_count = 0
            self._room.begin_anew()
            if len(plans) >= OWN_MAX and not self._take(block):
                self.clear()
        plans[block] = plan

    def _take(self, block: bytes) -> bool:
        size_bytes = _PLAN_BYTES + _COPIES * len(block) + _HEADER_BYTES * block.count(b"\n")
        if not self._room.take(self, size_bytes):
            return False
        self._taken_bytes += size_bytes
        return True

    def clear(self) -> None:
        """Forget all plans and give back what they took."""
        self.plans.clear()
        self._missed_count = 0
        self._room.give_back(self, self._taken_bytes)
        self._taken_bytes = 0
        self._on_clear()
