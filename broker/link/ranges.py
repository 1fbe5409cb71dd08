"""Sets of positions as sorted ranges [first, count, first, count …], small because positions come in runs.

Tests: tests/unit/broker/link/test_ranges.py.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import final


@final
class Ranges:
    """A set of whole numbers.  Adding at the end of a run and looking up are cheap; memory is a run's, not a number's."""

    __slots__ = ("_ends", "_starts")

    def __init__(self, flat: Iterable[int] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        numbers = list(flat)
        for index in range(0, len(numbers) - 1, 2):
            self.add(numbers[index], numbers[index] + numbers[index + 1])

    def __bool__(self) -> bool:
        return bool(self._starts)

    def __len__(self) -> int:
        return sum(self._ends) - sum(self._starts)

    def __contains__(self, number: object) -> bool:
        if not isinstance(number, int):
            return False
        index = bisect_right(self._starts, number) - 1
        return index >= 0 and number < self._ends[index]

    def __iter__(self) -> Iterator[int]:
        for start, end in zip(self._starts, self._ends, strict=True):
            yield from range(start, end)

    def add(self, first: int, end: int) -> None:
        """Add [first, end)."""
        starts, ends = self._starts, self._ends
        if not starts or first > ends[-1]:
            starts.append(first)
            ends.append(end)
            return
        if first >= starts[-1]:
            ends[-1] = max(ends[-1], end)
            return
        low = bisect_right(ends, first - 1)
        high = bisect_right(starts, end)
        if low < high:
            first = min(first, starts[low])
            end = max(end, ends[high - 1])
        starts[low:high] = [first]
        ends[low:high] = [end]

    def remove(self, first: int, end: int) -> None:
        """Take [first, end) out."""
        starts, ends = self._starts, self._ends
        low = bisect_right(ends, first)
        high = bisect_right(starts, end - 1)
        if low >= high:
            return
        left = (starts[low], first) if starts[low] < first else None
        right = (end, ends[high - 1]) if ends[high - 1] > end else None
        kept = [one for one in (left, right) if one is not None]
        starts[low:high] = [one[0] for one in kept]
        ends[low:high] = [one[1] for one in kept]

    def flat(self) -> list[int]:
        """The runs as [first, count, …]."""
        made: list[int] = []
        for start, end in zip(self._starts, self._ends, strict=True):
            made.append(start)
            made.append(end - start)
        return made

    def pairs(self) -> list[tuple[int, int]]:
        """The runs as (first, end)."""
        return list(zip(self._starts, self._ends, strict=True))


def flat_of(positions: Iterable[int]) -> list[int]:
    """Fold ascending positions into [first, count, …]."""
    made: list[int] = []
    expected = -1
    for position in positions:
        if position == expected:
            made[-1] += 1
        else:
            made.append(position)
            made.append(1)
        expected = position + 1
    return made
