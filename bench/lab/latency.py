"""Latencies in buckets: 64 to each doubling, so a value is known to 1.6 %; bounded, mergeable.

Tests: tests/unit/bench/lab/test_latency.py.
"""

from __future__ import annotations

from typing import Final, final

SHARES: Final = (50.0, 90.0, 99.0, 99.9, 100.0)
_SUB: Final = 64
_SUB_BITS: Final = 6


def bucket(microseconds: int) -> int:
    """The bucket of a value."""
    if microseconds < _SUB:
        return max(0, microseconds)
    shift = microseconds.bit_length() - _SUB_BITS - 1
    return (shift << _SUB_BITS) + (microseconds >> shift)


def value(number: int) -> int:
    """The largest value of a bucket, in microseconds."""
    if number < _SUB:
        return number
    shift = (number >> _SUB_BITS) - 1
    return ((number - (shift << _SUB_BITS) + 1) << shift) - 1


@final
class Latencies:
    """How often each latency came."""

    __slots__ = ("buckets",)

    def __init__(self, buckets: dict[int, int] | None = None) -> None:
        self.buckets: dict[int, int] = buckets or {}

    def add(self, microseconds: int, count: int) -> None:
        """Count a value."""
        number = bucket(microseconds)
        self.buckets[number] = self.buckets.get(number, 0) + count

    def merge(self, other: Latencies) -> None:
        """Add all of another."""
        for number, count in other.buckets.items():
            self.buckets[number] = self.buckets.get(number, 0) + count

    def percentile_ms(self, share: float) -> float:
        """The latency that this share (in percent) did not exceed, in milliseconds; 0 when nothing was counted."""
        total = sum(self.buckets.values())
        wanted = total * share / 100
        passed = 0
        for number in sorted(self.buckets):
            passed += self.buckets[number]
            if passed >= wanted:
                return value(number) / 1000
        return 0.0

    def percentiles(self) -> dict[str, float]:
        """The usual ones, in milliseconds."""
        return {f"p{share:g}": self.percentile_ms(share) for share in SHARES}

    def take(self) -> dict[str, int]:
        """Everything counted, as JSON takes it; counting starts anew."""
        found = {str(number): count for number, count in self.buckets.items()}
        self.buckets = {}
        return found

    @classmethod
    def load(cls, raw: dict[str, int]) -> Latencies:
        """What `take` gave."""
        return cls({int(number): count for number, count in raw.items()})
