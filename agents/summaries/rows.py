"""Summary rows of one day, computed from its raw records.

Invariants: sums are exact (rounded once, at the end), so neither the order of the records nor
the size of the pages changes a digit; the rows come sorted by id, so two computations of the
same records give the same list and the same digest.
Knows nothing of stores and brokers.
Source: agents/dimensions.py.
Tests: tests/unit/agents/test_summary_rows.py, tests/property/test_summary.py
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from datetime import date
from typing import Final, final

from agents.dimensions import (
    COUNT_FIELD,
    DAY_FIELD,
    DIMENSIONS,
    SUMS,
    Group,
    day_text,
    group_of,
    row_id,
)
from agents.summaries.corrections import Correct, Row

JOB_TYPE: Final = "JobUsageRecord"
# Beyond this a value is a broken record, and a few of them would overflow a sum.
VALUE_MAX: Final = 1e290
BUFFERED_VALUES_MAX: Final = 256
_SUM_NAMES: Final = tuple([each.name for each in SUMS])


@final
class ExactSum:
    """A sum of floats without rounding error until it is read; memory stays bounded."""

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: list[float] = []

    def add(self, value: float) -> None:
        """Add a finite number, at most VALUE_MAX in size."""
        self._parts.append(value)
        if len(self._parts) > BUFFERED_VALUES_MAX:
            self._parts = _expansion(self._parts)

    @property
    def value(self) -> float:
        """The correctly rounded total."""
        return math.fsum(self._parts)


@final
class DayRows:
    """Gathers the records of one day and gives its rows."""

    def __init__(self, day: date) -> None:
        self.day = day
        self.record_count = 0
        self.skipped_count = 0
        self.unreadable_count = 0
        self._groups: dict[Group, _Totals] = {}

    def add(self, record: Mapping[str, object]) -> None:
        """Count one raw record of this day; storage and quarantined records do not count."""
        if record.get("type", JOB_TYPE) != JOB_TYPE or record.get("Quarantine"):
            self.skipped_count += 1
            return
        self.record_count += 1
        group = group_of(record)
        totals = self._groups.get(group)
        if totals is None:
            totals = self._groups[group] = _Totals()
        totals.count += 1
        for position, each in enumerate(SUMS):
            value = record.get(each.name)
            if type(value) is float and -VALUE_MAX < value < VALUE_MAX:
                totals.sums[position].add(value)
            else:
                totals.sums[position].add(self._number(value, each.missing))

    def add_all(self, records: Iterable[Mapping[str, object]]) -> None:
        """Count a page of records."""
        for record in records:
            self.add(record)

    def rows(self, correct: Correct) -> list[Row]:
        """Give the finished rows, sorted by id."""
        keyed: list[tuple[str, Row]] = []
        for group, totals in self._groups.items():
            row = self._row(group, totals)
            correct(row)
            keyed.append((row_id(row), row))
        keyed.sort(key=lambda pair: pair[0])
        return [row for _, row in keyed]

    def _row(self, group: Group, totals: _Totals) -> Row:
        row: Row = {DAY_FIELD: day_text(self.day)}
        for dimension, value in zip(DIMENSIONS, group, strict=True):
            row[dimension.name] = value
        for name, total in zip(_SUM_NAMES, totals.sums, strict=True):
            row[name] = total.value
        row[COUNT_FIELD] = totals.count
        gpus = row["GPUs"]
        wall_seconds = row["WallDuration"]
        assert isinstance(gpus, int), "its default is a whole number"
        assert isinstance(wall_seconds, float), "sums are floats"
        row["GPUHours"] = wall_seconds / 3600 * gpus
        return row

    def _number(self, value: object, missing: float) -> float:
        if value is None:
            return missing
        try:
            number = float(value) if isinstance(value, int | float | str) else math.nan
        except (ValueError, OverflowError):
            number = math.nan
        if not -VALUE_MAX < number < VALUE_MAX:
            self.unreadable_count += 1
            return missing
        return number


@final
class _Totals:
    __slots__ = ("count", "sums")

    def __init__(self) -> None:
        self.count = 0
        self.sums = tuple([ExactSum() for _ in SUMS])


def rows_digest(rows: list[Row]) -> str:
    """Give a digest that changes when any value of any row changes."""
    packed = json.dumps(rows, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(packed.encode()).hexdigest()


def definition_digest(corrections_digest: str) -> str:
    """Give a digest of what rows are made of: when it changes, every day is computed again."""
    parts = [[each.name, each.default, each.raw_name] for each in DIMENSIONS]
    sums = [[each.name, each.missing] for each in SUMS]
    packed = json.dumps([1, parts, sums, corrections_digest])
    return hashlib.sha256(packed.encode()).hexdigest()


def _expansion(values: list[float]) -> list[float]:
    # A float holds 53 bits of a sum, fsum gives the nearest one: taking it away and asking
    # again gives the next 53 bits, until nothing is left.
    parts: list[float] = []
    while True:
        part = math.fsum(values)
        if part == 0.0:
            return parts
        parts.append(part)
        values.append(-part)
