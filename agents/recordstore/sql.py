"""Conditions as an SQLite WHERE clause with parameters, on the tables of `recordstore.sqlite`.

Invariants: values only ever travel as parameters; a condition on a missing field is false and its
negation true (`IS NOT TRUE`, never `NOT`); the tree stays flat enough for SQLite's depth limit.
Tests: tests/unit/agents/recordstore/test_sql.py, tests/property/test_filters.py (against Python).
"""

# ruff: noqa: S608 - names of tables and columns are our own constants; values are parameters.

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final, final

from agents.recordstore.condition import (
    AllOf,
    AtLeast,
    Between,
    Condition,
    Everything,
    Exists,
    FirstPathPart,
    Not,
    Nothing,
    OneOf,
    Scalar,
)
from agents.recordstore.fields import KEYWORD_LENGTH_MAX, FieldType, field_type
from agents.recordstore.keys import KEY_FIELDS, NUMBER_TYPES

# Longer lists travel as one JSON parameter: SQLite counts its parameters.
_LIST_INLINE_MAX: Final = 16
_TO_LOWER: Final = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz")
_GLOB_ESCAPE: Final = str.maketrans({"[": "[[]", "*": "[*]", "?": "[?]"})

_KEY_FIELDS: Final = frozenset(KEY_FIELDS)


def text_of(field: str, document: str = "doc") -> str:
    """Write the SQL of a field's value as text; lists and objects are none."""
    path = f"{document}, {_path(field)}"
    return (
        f"CASE json_type({path}) WHEN 'text' THEN json_extract({path})"
        f" WHEN 'integer' THEN CAST(json_extract({path}) AS TEXT)"
        f" WHEN 'real' THEN CAST(json_extract({path}) AS TEXT)"
        f" WHEN 'true' THEN 'true' WHEN 'false' THEN 'false' END"
    )


def number_of(field: str, document: str = "doc") -> str:
    """Write the SQL of a field's value as a number, which may be stored as text."""
    path = f"{document}, {_path(field)}"
    text = f"json_extract({path})"
    return (
        f"CASE json_type({path}) WHEN 'integer' THEN {text} WHEN 'real' THEN {text}"
        f" WHEN 'text' THEN CASE WHEN {text} <> '' AND {text} NOT GLOB '*[^0-9]*' THEN CAST({text} AS INTEGER)"
        f" WHEN json_valid({text}) THEN CASE WHEN json_type({text}) IN ('integer', 'real')"
        f" THEN json_extract({text}, '$') END END END"
    )


def column_name(field: str) -> str:
    """Write a key field's column name, quoted."""
    assert field in _KEY_FIELDS, field
    return f'"{field}"'


def where(condition: Condition) -> tuple[str, list[Scalar]]:
    """Write a condition as SQL and its parameters."""
    writer = _Writer()
    return writer.write(condition), writer.parameters


@final
class _Writer:
    """One WHERE clause in the making; parameters are in the order of their marks."""

    def __init__(self) -> None:
        self.parameters: list[Scalar] = []

    def write(self, condition: Condition) -> str:
        if isinstance(condition, Everything):
            return "1"
        if isinstance(condition, Nothing):
            return "0"
        if isinstance(condition, Not):
            return f"({self.write(condition.inner)}) IS NOT TRUE"
        if isinstance(condition, AllOf):
            return _balanced([self.write(inner) for inner in condition.inner], " AND ")
        if isinstance(condition, AtLeast):
            return self._at_least(condition)
        if isinstance(condition, OneOf):
            return self._one_of(condition)
        if isinstance(condition, Between):
            return self._between(condition)
        if isinstance(condition, Exists):
            return f"{_value(condition.field)} IS NOT NULL"
        if isinstance(condition, FirstPathPart):
            value = f"lower({_value(condition.field)})"
            first = f"substr({value}, 2, instr(substr({value}, 2) || '/', '/') - 1)"
            return f"(substr({value}, 1, 1) = '/' AND {self._match(first, condition.parts, ignores_case=True)})"
        value = _value(condition.field)
        if condition.ignores_case:
            value = f"lower({value})"
        return self._match(value, condition.parts, ignores_case=condition.ignores_case)

    def _at_least(self, condition: AtLeast) -> str:
        parts = [self.write(inner) for inner in condition.inner]
        if condition.minimum == 1:
            return _balanced(parts, " OR ")
        self.parameters.append(condition.minimum)
        return f"{_balanced([f'(({part}) IS TRUE)' for part in parts], ' + ')} >= ?"

    def _one_of(self, condition: OneOf) -> str:
        value = _value(condition.field)
        values: Sequence[Scalar] = condition.values
        if condition.ignores_case:
            value = f"lower({value})"
            values = [str(item).translate(_TO_LOWER) for item in values]
        if len(values) == 1:
            self.parameters.append(values[0])
            return f"{value} = ?"
        if len(values) <= _LIST_INLINE_MAX:
            self.parameters.extend(values)
            return f"{value} IN ({', '.join('?' * len(values))})"
        self.parameters.append(json.dumps(values))
        return f"{value} IN (SELECT value FROM json_each(?))"

    def _between(self, condition: Between) -> str:
        value = _value(condition.field)
        sides: list[str] = []
        # A record with an EndTime stands at it, so the index on the time serves both.
        values = (value, "time_ms") if condition.field == "EndTime" else (value,)
        for one in values:
            if condition.low is not None:
                self.parameters.append(condition.low)
                sides.append(f"{one} {'>=' if condition.includes_low else '>'} ?")
            if condition.high is not None:
                self.parameters.append(condition.high)
                sides.append(f"{one} {'<=' if condition.includes_high else '<'} ?")
        return f"({' AND '.join(sides)})" if sides else f"{value} IS NOT NULL"

    def _match(self, value: str, parts: tuple[tuple[bool, str], ...], *, ignores_case: bool) -> str:
        if ignores_case:
            parts = tuple((is_wildcard, text.translate(_TO_LOWER)) for is_wildcard, text in parts)
        if not any(is_wildcard for is_wildcard, _ in parts):
            self.parameters.append("".join(text for _, text in parts))
            return f"{value} = ?"
        self.parameters.append(
            "".join(
                text if is_wildcard else text.translate(_GLOB_ESCAPE) for is_wildcard, text in parts
            )
        )
        return f"{value} GLOB ?"


def _value(field: str) -> str:
    """Write the SQL of what a search compares; NULL when the field is missing or cannot be searched."""
    kind = field_type(field)
    if kind is FieldType.ID:
        return "id"
    if field == "EndTime":
        return "end_ms"
    if field == "@timestamp":
        return "time_ms"
    if kind is FieldType.DATE:
        return _milliseconds(field)
    if kind in NUMBER_TYPES:
        number = column_name(field) if field in _KEY_FIELDS else f"({number_of(field)})"
        return f"CAST({number} AS INTEGER)" if kind is FieldType.LONG else number
    if kind is FieldType.BOOLEAN:
        return f"(CASE lower({text_of(field)}) WHEN 'true' THEN 1 WHEN 'false' THEN 0 END)"
    text = column_name(field) if field in _KEY_FIELDS else f"({text_of(field)})"
    return f"(CASE WHEN length({text}) <= {KEYWORD_LENGTH_MAX} THEN {text} END)"


def _milliseconds(field: str) -> str:
    path = f"doc, {_path(field)}"
    text = f"json_extract({path})"
    # The pattern keeps words such as "now" away from SQLite's own date reading.
    return (
        f"(CASE WHEN json_type({path}) = 'text' AND {text} GLOB '[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]*'"
        f" THEN CAST(round((julianday({text}) - 2440587.5) * 86400000.0) AS INTEGER) END)"
    )


def _path(field: str) -> str:
    """Write a field's JSON path as an SQL literal; names with quotes never come here."""
    assert '"' not in field, field
    return "'$.\"" + field.replace("'", "''") + "\"'"


def _balanced(parts: list[str], joint: str) -> str:
    """Join as a balanced tree: a flat chain of a thousand would pass SQLite's expression depth."""
    if len(parts) == 1:
        return parts[0]
    half = len(parts) // 2
    return f"({_balanced(parts[:half], joint)}{joint}{_balanced(parts[half:], joint)})"
