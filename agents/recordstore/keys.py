"""The key fields of a record, read from its JSON into the columns that searches and sums use.

SQLite could generate these columns itself; read here they cost a tenth of that at each insert.

Invariants: `keyword` and `number` mean what `sql.text_of` and `sql.number_of` mean for the other fields; the list of
key fields belongs to the schema version of `recordstore.sqlite`.
Tests: tests/unit/agents/recordstore/test_keys.py, tests/property/test_filters.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from agents.recordstore.fields import FieldType, field_type

KEY_FIELDS: Final[tuple[str, ...]] = (
    "VOName",
    "ReportableVOName",
    "ProjectName",
    "DN",
    "Processors",
    "GPUs",
    "ResourceType",
    "CommonName",
    "Host_description",
    "Resource_ExitCode",
    "Grid",
    "ProbeName",
    "SiteName",
    "WallDuration",
    "CpuDuration_user",
    "CpuDuration_system",
    "CpuDuration",
    "CoreHours",
    "Njobs",
)
NUMBER_TYPES: Final = frozenset({FieldType.LONG, FieldType.DOUBLE})

KeyValue = str | int | float | None


def key_values(text: str) -> list[KeyValue]:
    """Read the key fields of a record's JSON, in the order of KEY_FIELDS; None where there is no value."""
    row = msgspec.structs.astuple(_DECODER.decode(text))
    return [read(value) for read, value in zip(_READERS, row, strict=True)]


def keyword(value: object) -> str | None:
    """Give a JSON value as a keyword's text; lists and objects are none."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else None


def number(value: object) -> int | float | None:
    """Give a JSON value as a number, which may be written as text."""
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, str):
        value = _number_in(value)
    if isinstance(value, int):
        # SQLite's integers have 64 bits.
        return value if -(2**63) <= value < 2**63 else float(value)
    return value if isinstance(value, float) else None


def _number_in(text: str) -> object:
    if text.isdigit() and text.isascii() and len(text) < 19:
        return int(text)
    try:
        return msgspec.json.decode(text, type=int | float)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return None


_READERS: Final[tuple[Callable[[object], KeyValue], ...]] = tuple(
    number if field_type(field) in NUMBER_TYPES else keyword for field in KEY_FIELDS
)
_DECODER: Final[msgspec.json.Decoder[Any]] = msgspec.json.Decoder(
    msgspec.defstruct("_Keys", [(field, object, None) for field in KEY_FIELDS])
)
