"""Conditions as SQL: values travel as parameters, names are quoted, the tree stays flat."""

from __future__ import annotations

import sqlite3

from agents.recordstore.condition import (
    AllOf,
    AtLeast,
    Between,
    Exists,
    FirstPathPart,
    Like,
    Not,
    OneOf,
)
from agents.recordstore.sql import where


def test_values_are_parameters_and_names_cannot_break_out():
    clause, parameters = where(OneOf("it's; DROP TABLE raw", ("'; DROP TABLE raw",)))
    assert parameters == ["'; DROP TABLE raw"]
    assert "DROP TABLE raw'" not in clause.replace("''", "")
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE raw(doc)")
    connection.execute(
        "INSERT INTO raw VALUES (?)", ('{"it\'s; DROP TABLE raw": "\'; DROP TABLE raw"}',)
    )
    assert connection.execute(
        f"SELECT count(*) FROM raw WHERE {clause}", parameters
    ).fetchone() == (1,)


def test_a_thousand_alternatives_stay_below_the_depth_limit():
    many = tuple(OneOf("VOName", (str(n),)) for n in range(1024))
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE raw(VOName)")
    connection.execute("INSERT INTO raw VALUES ('77')")
    for condition, expected in (
        (AtLeast(1, many), 1),
        (AllOf(many), 0),
        (AtLeast(2, many), 0),
        (Not(AtLeast(1, many)), 0),
    ):
        clause, parameters = where(condition)
        assert connection.execute(
            f"SELECT count(*) FROM raw WHERE {clause}", parameters
        ).fetchone() == (expected,)


def test_patterns_take_brackets_literally():
    _, parameters = where(Like("Queue", ((False, "a[b]*"), (True, "*"), (False, "?"))))
    assert parameters == ["a[[]b][*]*[?]"]


def test_case_is_folded_in_ascii_only():
    assert where(Like("VOName", ((False, "CMSÉ"),), ignores_case=True))[1] == ["cmsÉ"]
    assert where(FirstPathPart("VOName", ((False, "CMS"),)))[1] == ["cms"]


def test_end_time_is_searched_by_the_indexed_time_as_well():
    clause, parameters = where(Between("EndTime", 5, 9, includes_high=False))
    assert (clause, parameters) == (
        "(end_ms >= ? AND end_ms < ? AND time_ms >= ? AND time_ms < ?)",
        [5, 9, 5, 9],
    )
    assert where(Exists("EndTime"))[0] == "end_ms IS NOT NULL"
