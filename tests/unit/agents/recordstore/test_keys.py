"""Key fields read from JSON: the same values as the SQL for the other fields gives."""

from __future__ import annotations

import json
import sqlite3

import pytest

from agents.recordstore.keys import KEY_FIELDS, key_values
from agents.recordstore.sql import number_of, text_of

VALUES = [
    None,
    0,
    8,
    -8,
    1.5,
    -0.25,
    2**63,
    2**62,
    True,
    False,
    [1],
    {"a": 1},
    "",
    "x",
    "8",
    "08",
    "-8",
    "1.5",
    "1e3",
]
TEXTS = [
    "+8",
    " 8",
    "8 ",
    "nan",
    "Infinity",
    "NaN",
    "null",
    "true",
    "[1]",
    '"8"',
    "8.",
    ".8",
    "0x8",
    "8_0",
    "٨",
    "9" * 18,
    "1e400",
    "é",
]


@pytest.mark.parametrize("value", VALUES + TEXTS)
def test_same_as_sql(value):
    text = json.dumps({"VOName": value, "WallDuration": value, "Other": value})
    values = dict(zip(KEY_FIELDS, key_values(text), strict=True))
    row = (
        sqlite3.connect(":memory:")
        .execute(f"SELECT {text_of('Other', '?1')}, {number_of('Other', '?1')}", (text,))
        .fetchone()
    )
    if value == "1e400":
        assert row[1] == float("inf")
        assert values["WallDuration"] is None
    elif value == 2**63:
        assert values["WallDuration"] == row[1] == float(value)
    else:
        assert (values["VOName"], values["WallDuration"]) == row


def test_missing_fields_and_the_last_of_repeated_ones():
    assert key_values("{}") == [None] * len(KEY_FIELDS)
    assert key_values('{"VOName": "a", "x": {"VOName": "b"}, "VOName": "c"}')[0] == "c"


def test_numbers_and_keywords_are_as_the_types_say():
    from agents.recordstore.fields import field_type
    from agents.recordstore.keys import NUMBER_TYPES

    values = key_values(json.dumps(dict.fromkeys(KEY_FIELDS, "08")))
    expected = [8 if field_type(field) in NUMBER_TYPES else "08" for field in KEY_FIELDS]
    assert values == expected
