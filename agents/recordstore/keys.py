"""The key fields of a record, read from its JSON into the columns that searches and sums use.

SQLite could generate these columns itself; read here they cost a tenth of that at each insert.

Invariants: `keyword` and `number` mean what `sql.text_of` and `sql.number_of` mean for the other fields; the list of
key fields belongs to the schema version of `recordstore.sqlite`.
Tests: tests/unit/agents/recordstore/test_keys.py, tests/property/test_filters.py.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from agents.recordstore.fields import FieldType

_KEYWORDS: Final = (
    "VOName",
    "ReportableVOName",
    "ProjectName",
    "DN",
    "ResourceType",
    "CommonName",
    "Host_description",
    "Grid",
    "ProbeName",
    "SiteName",
)
_NUMBERS: Final = (
    "Processors",
    "GPUs",
    "Resource_ExitCode",
    "WallDuration",
    "CpuDuration_user",
    "CpuDuration_system",
    "CpuDuration",
    "CoreHours",
    "Njobs",
)
KEY_FIELDS: Final[tuple[str, ...]] = _KEYWORDS + _NUMBERS
NUMBER_TYPES: Final = frozenset({FieldType.LONG, FieldType.DOUBLE})

KeyValue = str | int | float | None


def key_values(text: str) -> list[KeyValue]:
    """Read the key fields of a record's JSON, in the order of KEY_FIELDS; None where there is no value."""
    row = msgspec.structs.astuple(_DECODER.decode(text))
    # The usual types are told here: a call a value would be most of this function's time.
    values: list[KeyValue] = [
        value if value is None or type(value) is str else keyword(value)
        for value in row[: len(_KEYWORDS)]
    ]
    values += [
        value if value is None or type(value) is float else number(value)
        for value in row[len(_KEYWORDS) :]
    ]
    return values


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


_DECODER: Final[msgspec.json.Decoder[Any]] = msgspec.json.Decoder(
    msgspec.defstruct("_Keys", [(field, object, None) for field in KEY_FIELDS])
)
