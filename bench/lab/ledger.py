"""Accounts for every message: what a producer promised, what a queue's consumers saw, and the difference.

A message is (producer, sequence); sequences of a producer count up from 0.  A producer's account splits its sequences into
confirmed, refused and in doubt (its connection broke before an answer; such a message is not sent again, so it may
arrive once or not at all).  Invariant: one bit a message and a few numbers, whatever the order of arrival; seven million
messages take under a megabyte for each queue.  Tests: tests/unit/bench/lab/test_ledger.py.
"""

from __future__ import annotations

import base64
import zlib
from bisect import bisect_right
from collections import deque
from typing import Any, Final, final

PAGE_BITS: Final = 8192
_FULL: Final = (1 << PAGE_BITS) - 1
RANGES_SHOWN_MAX: Final = 20
TAIL_SECONDS: Final = 3.0
"""How far before the loss of its connection a consumer's acknowledgements may have been lost with it."""
TAIL_RUNS_MAX: Final = 200_000


@final
class Bits:
    """A set of numbers from 0 on, one bit each in pages; full pages share one object."""

    __slots__ = ("_pages",)

    def __init__(self) -> None:
        self._pages: dict[int, int] = {}

    def add_range(self, first: int, stop: int) -> int:
        """Add first … stop - 1; return how many were there already."""
        pages = self._pages
        known = 0
        while first < stop:
            number, offset = divmod(first, PAGE_BITS)
            count = min(stop - first, PAGE_BITS - offset)
            mask = ((1 << count) - 1) << offset
            page = pages.get(number, 0)
            if page & mask:
                known += (page & mask).bit_count()
            page |= mask
            pages[number] = _FULL if page == _FULL else page
            first += count
        return known

    def discard(self, number: int) -> bool:
        """Take one number out; return whether it was there."""
        page_number, offset = divmod(number, PAGE_BITS)
        page = self._pages.get(page_number, 0)
        if not page >> offset & 1:
            return False
        self._pages[page_number] = page & ~(1 << offset)
        return True

    def __contains__(self, number: int) -> bool:
        page_number, offset = divmod(number, PAGE_BITS)
        return bool(self._pages.get(page_number, 0) >> offset & 1)

    def __len__(self) -> int:
        return sum(page.bit_count() for page in self._pages.values())

    def missing(self, first: int, stop: int) -> list[tuple[int, int]]:
        """Ranges of first … stop - 1 that are not in the set."""
        found: list[tuple[int, int]] = []
        while first < stop:
            number, offset = divmod(first, PAGE_BITS)
            count = min(stop - first, PAGE_BITS - offset)
            absent = ~(self._pages.get(number, 0) >> offset) & ((1 << count) - 1)
            while absent:
                begin = (absent & -absent).bit_length() - 1
                shifted = absent >> begin
                length = (~shifted & (shifted + 1)).bit_length() - 1
                if found and found[-1][1] == first + begin:
                    found[-1] = (found[-1][0], first + begin + length)
                else:
                    found.append((first + begin, first + begin + length))
                absent &= ~(((1 << length) - 1) << begin)
            first += count
        return found

    def merge(self, other: Bits) -> int:
        """Add all of another set; return how many were in both."""
        both = 0
        for number, page in other._pages.items():
            mine = self._pages.get(number, 0)
            both += (mine & page).bit_count()
            self._pages[number] = mine | page
        return both

    def dump(self) -> str:
        """The set as text, small where it has long runs."""
        stop = max(self._pages, default=-1) + 1
        raw = b"".join(
            self._pages.get(number, 0).to_bytes(PAGE_BITS // 8, "little") for number in range(stop)
        )
        return base64.b64encode(zlib.compress(raw)).decode()

    @classmethod
    def load(cls, text: str) -> Bits:
        """The set that a text of `dump` means."""
        raw = zlib.decompress(base64.b64decode(text))
        step = PAGE_BITS // 8
        found = cls()
        for at in range(0, len(raw), step):
            page = int.from_bytes(raw[at : at + step], "little")
            if page:
                found._pages[at // step] = _FULL if page == _FULL else page
        return found


@final
class Seen:
    """What the consumers of one queue saw of one producer.

    `repeat_count` counts second arrivals that a consumer's lost connection explains (delivered again because the
    acknowledgement went down with it); `doubled_count` all others.
    """

    __slots__ = (
        "_allowed",
        "_tail",
        "bits",
        "disordered_count",
        "doubled_count",
        "highest",
        "repeat_count",
        "unique_count",
    )

    def __init__(self) -> None:
        self.bits = Bits()
        self.highest = -1
        self.unique_count = 0
        self.doubled_count = 0
        self.repeat_count = 0
        self.disordered_count = 0
        self._tail: deque[tuple[float, int, int]] = deque(maxlen=TAIL_RUNS_MAX)
        self._allowed = Bits()

    def note(self, first: int, stop: int, now: float) -> None:
        """Note that first … stop - 1 arrived in this order, at a time in seconds."""
        tail = self._tail
        while tail and tail[0][0] < now - TAIL_SECONDS:
            tail.popleft()
        tail.append((now, first, stop))
        known = self.bits.add_range(first, stop)
        fresh = stop - first - known
        self.unique_count += fresh
        if known:
            self._note_repeats(first, stop, known, fresh)
        elif first < self.highest:
            self.disordered_count += fresh
        if stop - 1 > self.highest:
            self.highest = stop - 1

    def _note_repeats(self, first: int, stop: int, known: int, fresh: int) -> None:
        allowed = sum(self._allowed.discard(number) for number in range(first, stop))
        self.repeat_count += allowed
        self.doubled_count += known - allowed
        if fresh and first < self.highest and stop - 1 <= self.highest:
            self.disordered_count += fresh

    def lose_connection(self) -> None:
        """Allow what came lately, and was perhaps not acknowledged, to come once more."""
        for _, first, stop in self._tail:
            self._allowed.add_range(first, stop)
        self._tail.clear()

    def as_dict(self) -> dict[str, Any]:
        """For the audit."""
        return {
            "bits": self.bits.dump(),
            "unique": self.unique_count,
            "doubled": self.doubled_count,
            "repeats": self.repeat_count,
            "disordered": self.disordered_count,
        }


@final
class Promised:
    """What one producer sent: sequences below `next`, of which those refused or in doubt are told apart.

    Confirms come in order of sending but for single ones; `sent` and `confirm` are called with sequences.
    """

    __slots__ = ("_ahead", "doubt", "low", "next", "refused")

    def __init__(self) -> None:
        self.next = 0
        self.low = 0
        self.refused: list[tuple[int, int]] = []
        self.doubt: list[tuple[int, int]] = []
        self._ahead: set[int] = set()

    @property
    def unconfirmed_count(self) -> int:
        """Sent and not answered yet."""
        return self.next - self.low - len(self._ahead)

    def send(self, count: int) -> int:
        """Take the next `count` sequences; return the first."""
        first = self.next
        self.next += count
        return first

    def confirm(self, sequence: int, *, is_multiple: bool) -> None:
        """Note the broker's promise for a sequence, or for all up to it."""
        if is_multiple:
            stop = sequence + 1
            if stop > self.low:
                self.low = stop
                if self._ahead:
                    self._ahead = {one for one in self._ahead if one >= stop}
        elif sequence >= self.low:
            self._ahead.add(sequence)
        while self.low in self._ahead:
            self._ahead.discard(self.low)
            self.low += 1

    def refuse(self, sequence: int, *, is_multiple: bool) -> None:
        """Note that the broker did not take a sequence, or none from the oldest unanswered one up to it."""
        first = self.low if is_multiple else sequence
        refused = [one for one in range(first, sequence + 1) if one not in self._ahead]
        self.refused += [(one, one + 1) for one in refused]
        self.confirm(sequence, is_multiple=is_multiple)

    def lose_connection(self) -> None:
        """Put what was not answered in doubt."""
        for number in range(self.low, self.next):
            if number in self._ahead:
                continue
            if self.doubt and self.doubt[-1][1] == number:
                self.doubt[-1] = (self.doubt[-1][0], number + 1)
            else:
                self.doubt.append((number, number + 1))
        self.low = self.next
        self._ahead.clear()

    def as_dict(self) -> dict[str, Any]:
        """For the audit."""
        return {
            "sent": self.next,
            "waiting": [(self.low, self.next)] if self.low < self.next else [],
            "refused": self.refused,
            "doubt": self.doubt,
        }


@final
class Verdict:
    """What became of one producer's messages at one queue."""

    __slots__ = (
        "arrived",
        "confirmed",
        "disordered",
        "doubled",
        "doubt_arrived",
        "in_doubt",
        "lost",
        "lost_ranges",
        "refused",
        "refused_arrived",
        "repeats",
    )

    def __init__(self, promised: dict[str, Any], seen: dict[str, Any] | None) -> None:
        """Compare a producer's account with that of a queue's consumers (`as_dict` of each; None: nothing came)."""
        bits = Bits.load(seen["bits"]) if seen else Bits()
        doubt = _ranges(promised["doubt"]) + _ranges(promised["waiting"])
        refused = _ranges(promised["refused"])
        missing = bits.missing(0, promised["sent"])
        self.lost_ranges = _without(missing, sorted(doubt + refused))
        self.lost = _count(self.lost_ranges)
        self.in_doubt = _count(doubt)
        self.refused = _count(refused)
        self.confirmed = promised["sent"] - self.in_doubt - self.refused
        self.doubt_arrived = sum(b - a - _count(bits.missing(a, b)) for a, b in doubt)
        self.refused_arrived = sum(b - a - _count(bits.missing(a, b)) for a, b in refused)
        self.arrived = len(bits)
        self.repeats = seen["repeats"] if seen else 0
        self.doubled = seen["doubled"] if seen else 0
        self.disordered = seen["disordered"] if seen else 0

    @property
    def is_whole(self) -> bool:
        """Whether all that was confirmed arrived."""
        return not self.lost

    def as_dict(self) -> dict[str, Any]:
        """For the report."""
        found: dict[str, Any] = {
            name: getattr(self, name) for name in self.__slots__ if name != "lost_ranges"
        }
        found["lost_ranges"] = self.lost_ranges[:RANGES_SHOWN_MAX]
        return found


def _ranges(pairs: list[Any]) -> list[tuple[int, int]]:
    return [(int(a), int(b)) for a, b in pairs]


def _count(ranges: list[tuple[int, int]]) -> int:
    return sum(stop - first for first, stop in ranges)


def _without(ranges: list[tuple[int, int]], taken: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """What is left of ranges when the (sorted) others are taken out."""
    starts = [first for first, _ in taken]
    left: list[tuple[int, int]] = []
    for first, stop in ranges:
        at = max(0, bisect_right(starts, first) - 1)
        for begin, end in taken[at:]:
            if begin >= stop:
                break
            if end <= first:
                continue
            if begin > first:
                left.append((first, begin))
            first = max(first, end)
        if first < stop:
            left.append((first, stop))
    return left
