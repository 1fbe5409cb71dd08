"""Typed conditions on single fields, for every filter language: values are read here, limits are kept here.

Invariants: a value that the field's type cannot mean is refused, never compared as something else;
the alias `vo` (equal without case to VOName or ReportableVOName, or the first part of a
VOName path) is resolved here and nowhere else.
Tests: tests/unit/agents/recordstore/test_filter.py, test_lucene.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final, final

from agents.recordstore.condition import (
    Between,
    Condition,
    Exists,
    FirstPathPart,
    Like,
    Nothing,
    OneOf,
    Scalar,
    any_of,
)
from agents.recordstore.dates import date_bound_ms
from agents.recordstore.fields import (
    FIELD_LENGTH_MAX,
    VO_ALIAS,
    VO_FIELDS,
    VO_PATH_FIELD,
    FieldType,
    field_type,
)
from agents.recordstore.interface import RecordStoreError

QUERY_LENGTH_MAX: Final = 16_384
CONDITIONS_MAX: Final = 1_024
VALUES_MAX: Final = 10_000

Parts = tuple[tuple[bool, str], ...]
_NUMBER: Final = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?", re.ASCII)


class UntranslatableFilter(RecordStoreError):
    """A filter that cannot be kept to its meaning; the text says what to write instead."""


@final
class Terms:
    """Make the conditions of one filter; `now` is what its dates are relative to."""

    def __init__(self, now: datetime) -> None:
        self._now = now
        self._conditions = 0

    @staticmethod
    def check_length(text: str) -> None:
        """Refuse a text over QUERY_LENGTH_MAX characters."""
        if len(text) > QUERY_LENGTH_MAX:
            raise UntranslatableFilter(
                f"the filter has {len(text)} characters; the limit is {QUERY_LENGTH_MAX}: use terms, or several filters"
            )

    def equal(self, field: str, value: object) -> Condition:
        """Require one value."""
        return self.one_of(field, (value,))

    def one_of(
        self, field: str, values: Sequence[object], *, ignores_case: bool = False
    ) -> Condition:
        """Require one of the values; on dates a value covers its unit."""
        kind = self._search(field)
        if len(values) > VALUES_MAX:
            raise UntranslatableFilter(f"{field}: {len(values)} values; the limit is {VALUES_MAX}")
        if not values:
            return Nothing()
        if None in values:
            raise UntranslatableFilter(f"{field}: null is no value: write must_not with exists")
        if field == VO_ALIAS:
            return any_of(tuple(self._vo(((False, _keyword(field, value)),)) for value in values))
        if kind is FieldType.DATE:
            self._count(len(values))
            return any_of(tuple(self._date_unit(field, value) for value in values))
        if ignores_case and kind is not FieldType.KEYWORD:
            raise UntranslatableFilter(f"{field}: case_insensitive is for keyword fields only")
        typed = tuple(_typed(field, kind, value) for value in values)
        if kind is FieldType.LONG:
            typed = tuple(value for value in typed if value == int(value))
        return OneOf(field, typed, ignores_case) if typed else Nothing()

    def like(self, field: str, parts: Parts, *, ignores_case: bool = False) -> Condition:
        """Require a pattern; on keyword fields only."""
        kind = self._search(field)
        if kind is not FieldType.KEYWORD:
            raise UntranslatableFilter(
                f"{field} is a {kind.name.lower()} field, patterns are for keywords: write a value or a range, {field}:[1 TO 9]"
            )
        if field == VO_ALIAS:
            return self._vo(parts)
        return Like(field, parts, ignores_case)

    def between(self, field: str, bounds: Mapping[str, object]) -> Condition:
        """Require a range; the keys of `bounds` are among `>=`, `>`, `<=`, `<`, each side at most once."""
        kind = self._search(field)
        if field == VO_ALIAS:
            raise UntranslatableFilter("vo has no range: write VOName:[a TO b]")
        if kind is FieldType.BOOLEAN or kind is FieldType.ID:
            raise UntranslatableFilter(f"{field} has no range: write one value")
        if not bounds:
            return Exists(field)
        low_operator = ">=" if ">=" in bounds else ">"
        high_operator = "<=" if "<=" in bounds else "<"
        low = self._bound(field, kind, bounds.get(low_operator), rounds_up=low_operator == ">")
        high = self._bound(field, kind, bounds.get(high_operator), rounds_up=high_operator == "<=")
        return Between(field, low, high, low_operator == ">=", high_operator == "<=")

    def exists(self, field: str) -> Condition:
        """Require a value, of any type."""
        self._check_name(field)
        if field_type(field) is FieldType.UNINDEXED:
            raise UntranslatableFilter(f"{field} is kept but not searched: leave it out")
        if field == VO_ALIAS:
            return any_of(tuple(Exists(name) for name in VO_FIELDS))
        return Exists(field)

    def _search(self, field: str) -> FieldType:
        self._check_name(field)
        self._count(1)
        kind = field_type(field)
        if kind is FieldType.UNINDEXED:
            instead = "write _id:CHECKSUM" if field == "checksum" else "search another field"
            raise UntranslatableFilter(f"{field} is kept but not searched: {instead}")
        if kind is FieldType.TEXT:
            raise UntranslatableFilter(
                f"{field} is analyzed text, whose words another store may split otherwise: write _exists_:{field}, or search a keyword field such as Host_description"
            )
        return kind

    def _count(self, conditions: int) -> None:
        self._conditions += conditions
        if self._conditions > CONDITIONS_MAX:
            raise UntranslatableFilter(
                f"more than {CONDITIONS_MAX} conditions: use terms with a list of values"
            )

    @staticmethod
    def _check_name(field: str) -> None:
        if not field or len(field) > FIELD_LENGTH_MAX or '"' in field or not field.isprintable():
            raise UntranslatableFilter(f"{field[:40]!r} is not the name of a field")

    def _vo(self, parts: Parts) -> Condition:
        self._count(2)
        same = tuple(Like(name, parts, ignores_case=True) for name in VO_FIELDS)
        return any_of((*same, FirstPathPart(VO_PATH_FIELD, parts)))

    def _date_unit(self, field: str, value: object) -> Condition:
        first = self._bound(field, FieldType.DATE, value, rounds_up=False)
        last = self._bound(field, FieldType.DATE, value, rounds_up=True)
        return Between(field, first, last)

    def _bound(
        self, field: str, kind: FieldType, value: object, *, rounds_up: bool
    ) -> Scalar | None:
        if value is None:
            return None
        if kind is not FieldType.DATE:
            return _typed(field, kind, value)
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise UntranslatableFilter(f'{field}: {value!r} is not a date: write "2026-01-20"')
        try:
            return date_bound_ms(str(value), self._now, rounds_up=rounds_up)
        except ValueError as error:
            raise UntranslatableFilter(f"{field}: {error}") from error


def _typed(field: str, kind: FieldType, value: object) -> Scalar:
    if kind is FieldType.LONG or kind is FieldType.DOUBLE:
        return _number(field, value)
    if kind is FieldType.BOOLEAN:
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value in {"true", "false"}:
            return value == "true"
        raise UntranslatableFilter(f"{field}: write true or false, not {value!r}")
    return _keyword(field, value)


def _number(field: str, value: object) -> int | float:
    number: int | float | None = None
    if isinstance(value, str) and len(value) <= 64 and _NUMBER.fullmatch(value):
        number = int(value) if value.lstrip("+-").isdigit() else float(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        number = value
    if number is None or not math.isfinite(number):
        raise UntranslatableFilter(f"{field}: {str(value)[:40]!r} is not a number")
    # Beyond 64 bits SQLite has no integers; so large, a double tells the same.
    return float(number) if abs(number) >= 2**63 else number


def _keyword(field: str, value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if not isinstance(value, str):
        raise UntranslatableFilter(
            f"{field}: {str(value)[:40]} is not a value: write text or a number; for a missing field, must_not with exists"
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UntranslatableFilter(f"{field}: the value is not Unicode text") from error
    return value
