"""A set of positions as bits: what is dead above a lane's head.

At most one bit a position, and one shared integer for 4096 positions in a row.  Pure.  Tests:
tests/unit/store/test_positions.py.
"""

from __future__ import annotations

from typing import Any, Final, final

BITS: Final = 4096
"""Positions per piece of a position set."""

SHIFT: Final = 12
_MASK: Final = BITS - 1
_FULL: Final = (1 << BITS) - 1


@final
class PositionSet:
    """A set of positions as bit pieces of 4096; a full piece costs one shared integer."""

    __slots__ = ("_pieces",)

    def __init__(self) -> None:
        self._pieces: dict[int, int] = {}

    def __bool__(self) -> bool:
        return bool(self._pieces)

    def __contains__(self, position: int) -> bool:
        piece = self._pieces.get(position >> SHIFT)
        return piece is not None and bool(piece >> (position & _MASK) & 1)

    def add(self, first: int, end: int) -> None:
        """Add the positions of [first, end)."""
        pieces = self._pieces
        while first < end:
            index = first >> SHIFT
            low = first & _MASK
            count = end - first
            if count > BITS - low:
                count = BITS - low
            if count == BITS:
                pieces[index] = _FULL
            else:
                piece = pieces.get(index, 0) | ((1 << count) - 1) << low
                pieces[index] = _FULL if piece == _FULL else piece
            first += count

    def remove(self, position: int) -> None:
        """Take a position out."""
        index = position >> SHIFT
        piece = self._pieces.get(index, 0) & ~(1 << (position & _MASK))
        if piece:
            self._pieces[index] = piece
        else:
            self._pieces.pop(index, None)

    def count_in(self, first: int, end: int) -> int:
        """How many positions of [first, end) are in the set."""
        total = 0
        while first < end:
            low = first & _MASK
            count = min(end - first, BITS - low)
            piece = self._pieces.get(first >> SHIFT)
            if piece is not None:
                total += (piece >> low & (1 << count) - 1).bit_count()
            first += count
        return total

    def next_absent(self, position: int) -> int:
        """The lowest position at or above `position` that is not in the set."""
        while True:
            piece = self._pieces.get(position >> SHIFT)
            if piece is None:
                return position
            if piece != _FULL:
                low = position & _MASK
                rest = ~(piece >> low)
                ones = (rest & -rest).bit_length() - 1
                if low + ones < BITS:
                    return position + ones
            position = (position | _MASK) + 1

    def forget_below(self, position: int) -> None:
        """Drop whole pieces that end at or below `position`."""
        end = position >> SHIFT
        pieces = self._pieces
        if len(pieces) == 1:
            (index,) = pieces
            if index < end:
                pieces.clear()
            return
        for index in [index for index in pieces if index < end]:
            del pieces[index]

    def copy(self) -> PositionSet:
        """Give a set of its own; the pieces are shared, as they never change."""
        positions = PositionSet()
        positions._pieces = self._pieces.copy()
        return positions

    def freeze(self) -> list[Any]:
        """Give the set as numbers and bytes: runs of full pieces as [first piece, count], others as bits."""
        frozen: list[Any] = []
        if not self._pieces:
            return frozen
        full_start = full_count = 0
        for index in sorted(self._pieces):
            piece = self._pieces[index]
            if piece == _FULL:
                if full_count and full_start + full_count == index:
                    full_count += 1
                    frozen[-1] = [full_start, full_count]
                else:
                    full_start, full_count = index, 1
                    frozen.append([index, 1])
                continue
            low = ((piece & -piece).bit_length() - 1) >> 3
            bits = piece >> (low << 3)
            frozen.append([index, low, bits.to_bytes((bits.bit_length() + 7) >> 3, "little")])
        return frozen

    @classmethod
    def thaw(cls, frozen: list[Any]) -> PositionSet:
        """Make the set that `freeze` gave."""
        positions = cls()
        for entry in frozen:
            if len(entry) == 2:
                for index in range(entry[0], entry[0] + entry[1]):
                    positions._pieces[index] = _FULL
            else:
                positions._pieces[entry[0]] = int.from_bytes(entry[2], "little") << (entry[1] << 3)
        return positions
