"""Columns of numbers over time, bounded: when there are too many rows, every second one goes and fewer are taken from then on.

Tests: tests/unit/bench/lab/test_series.py.
"""

from __future__ import annotations

from typing import Any, Final, final

ROWS_MAX: Final = 4000


@final
class Series:
    """Rows of (seconds, values), as columns."""

    __slots__ = ("_keep_every", "_names", "_offered", "columns", "rows_max")

    def __init__(self, *names: str, rows_max: int = ROWS_MAX) -> None:
        self._names = names
        self.columns: dict[str, list[float]] = {"t": [], **{name: [] for name in names}}
        self.rows_max = rows_max
        self._keep_every = 1
        self._offered = 0

    def add(self, seconds: float, *values: float) -> None:
        """Add a row."""
        assert len(values) == len(self._names), f"{self._names} expected"
        self._offered += 1
        if self._offered % self._keep_every:
            return
        self.columns["t"].append(round(seconds, 3))
        for name, one in zip(self._names, values, strict=True):
            self.columns[name].append(round(one, 6))
        if len(self.columns["t"]) > self.rows_max:
            self._keep_every *= 2
            for column in self.columns.values():
                del column[::2]

    def last(self, name: str) -> float:
        """The newest value of a column, or 0."""
        column = self.columns[name]
        return column[-1] if column else 0.0

    def as_dict(self) -> dict[str, Any]:
        """The columns, for the report."""
        return self.columns


def rates(times: list[float], totals: list[float]) -> list[float]:
    """Per second between neighbours of a growing total; the first is 0."""
    found = [0.0] if times else []
    for index in range(1, len(times)):
        span = times[index] - times[index - 1]
        found.append((totals[index] - totals[index - 1]) / span if span > 0 else 0.0)
    return found
