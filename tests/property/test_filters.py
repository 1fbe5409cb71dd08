"""Filters on SQLite against an independent evaluation in Python, on generated records and filters."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from agents.recordstore.filter import condition_of, read_filter
from agents.recordstore.interface import Kind, Selection, StoredRecord
from agents.recordstore.sqlite import SqliteRecordStore

AT_MS = 1_767_225_600_000  # 2026-01-01
DAY_MS = 86_400_000

NAMES = [
    "cms",
    "CMS",
    "atlas",
    "/cms",
    "/cms/Role=production",
    "/CMS/x",
    "/atlas/cms",
    "a b",
    "c*s",
    "c[m]s",
    "",
    "x" * 256,
    "x" * 257,
    "é",
]
NUMBERS = [0, 1, 8, -3, 1.5, 7.99, "8", "08", "1.5", "-3", "x", "", True, None]
# Each with its first and its last millisecond, by hand.
DATES = {
    "2026": (AT_MS, AT_MS + 365 * DAY_MS - 1),
    "2026-01": (AT_MS, AT_MS + 31 * DAY_MS - 1),
    "2026-01-02": (AT_MS + DAY_MS, AT_MS + 2 * DAY_MS - 1),
    "2026-01-02T03": (AT_MS + DAY_MS + 3 * 3_600_000, AT_MS + DAY_MS + 4 * 3_600_000 - 1),
    "2026-01-02T03:00:00Z": (AT_MS + DAY_MS + 10_800_000, AT_MS + DAY_MS + 10_800_999),
    "2026-01-02T04:00:00+01:00": (AT_MS + DAY_MS + 10_800_000, AT_MS + DAY_MS + 10_800_999),
    "2026-01-02T03:00:00.500Z": (AT_MS + DAY_MS + 10_800_500, AT_MS + DAY_MS + 10_800_500),
    "2026-01-02||/M": (AT_MS, AT_MS + 31 * DAY_MS - 1),
    "2026-01-01||+1d": (AT_MS + DAY_MS, AT_MS + DAY_MS),
    "now-1d": (AT_MS + 4 * DAY_MS, AT_MS + 4 * DAY_MS),
    "now/d": (AT_MS + 5 * DAY_MS, AT_MS + 6 * DAY_MS - 1),
}
NOW = datetime(2026, 1, 6, tzinfo=UTC)
TIMES = {
    "2026-01-01T00:00:00Z": AT_MS,
    "2026-01-02T03:00:00Z": AT_MS + DAY_MS + 10_800_000,
    "2026-01-02T03:00:00.500Z": AT_MS + DAY_MS + 10_800_500,
    "2026-01-02T05:00:00+02:00": AT_MS + DAY_MS + 10_800_000,
    "2026-01-05T00:00:00Z": AT_MS + 4 * DAY_MS,
    "2026-01-31T23:59:59Z": AT_MS + 31 * DAY_MS - 1000,
    "2025-12-31T23:59:59Z": AT_MS - 1000,
    "2027-01-01T00:00:00Z": AT_MS + 365 * DAY_MS,
    "now": None,
}
KEYWORDS = ["VOName", "ReportableVOName", "SiteName", "Resource_x", "Resource_condor-x"]
LONGS = ["WallDuration", "Processors", "Resource_ExitCode"]
DOUBLES = ["CpuDuration", "TimeDuration_t", "Memory"]
DATE_FIELDS = ["EndTime", "QueueTime", "TimeInstant_q"]
FLAG = "Resource_ExitBySignal"


def optional(values: list[Any]) -> st.SearchStrategy[Any]:
    return st.sampled_from([*values, None])


documents = st.fixed_dictionaries(
    {},
    optional={
        **{name: st.sampled_from(NAMES) for name in KEYWORDS},
        **{name: st.sampled_from(NUMBERS) for name in LONGS + DOUBLES},
        **{name: st.sampled_from(list(TIMES)) for name in DATE_FIELDS},
        FLAG: st.sampled_from([True, False, "true", "false", "x"]),
        "y": st.sampled_from([1, 1.5, True, [1], {"a": 1}, None, "1"]),
    },
)


# -- the independent evaluation -----------------------------------------------------------------


def keyword(document: dict[str, Any], field: str) -> str | None:
    value = document.get(field)
    if value is None or isinstance(value, list | dict):
        return None
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 256 else None


def number(document: dict[str, Any], field: str) -> float | None:
    value = document.get(field)
    if isinstance(value, str):
        value = float(value) if re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", value) else None
    if value is None or isinstance(value, bool):
        return None
    return int(value) if field in LONGS else value


def time(document: dict[str, Any], field: str) -> int | None:
    return TIMES.get(document.get(field, ""))


def flag(document: dict[str, Any]) -> bool | None:
    return {"true": True, "false": False}.get(str(document.get(FLAG)).lower())


def value_of(document: dict[str, Any], field: str) -> Any:
    if field in LONGS + DOUBLES:
        return number(document, field)
    if field in DATE_FIELDS:
        return time(document, field)
    return flag(document) if field == FLAG else keyword(document, field)


def same_pattern(text: str | None, pattern: str, *, ignores_case: bool = False) -> bool:
    if text is None:
        return False
    out = "".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in pattern)
    return re.fullmatch(out, text, re.DOTALL | (re.IGNORECASE if ignores_case else 0)) is not None


def is_vo(document: dict[str, Any], pattern: str) -> bool:
    name, reportable = keyword(document, "VOName"), keyword(document, "ReportableVOName")
    if same_pattern(name, pattern, ignores_case=True) or same_pattern(
        reportable, pattern, ignores_case=True
    ):
        return True
    return (
        name is not None
        and name.startswith("/")
        and same_pattern(name.split("/")[1], pattern, ignores_case=True)
    )


def is_term(document: dict[str, Any], field: str, value: Any) -> bool:
    if field == "vo":
        return is_vo(document, value)
    has = value_of(document, field)
    if has is None:
        return False
    if field in DATE_FIELDS:
        first, last = DATES[value]
        return first <= has <= last
    if field in LONGS + DOUBLES:
        return has == float(value)
    if field == FLAG:
        return has == (value in {True, "true"})
    return has == value


def in_range(document: dict[str, Any], field: str, bounds: dict[str, Any]) -> bool:
    has = value_of(document, field)
    if has is None:
        return False
    for operator, bound in bounds.items():
        if field in DATE_FIELDS:
            first, last = DATES[bound]
            limit: Any = last if operator in {"gt", "lte"} else first
        else:
            limit = float(bound) if field in LONGS + DOUBLES else bound.encode()
        shown = has.encode() if isinstance(has, str) else has
        fits = {
            "gt": shown > limit,
            "gte": shown >= limit,
            "lt": shown < limit,
            "lte": shown <= limit,
        }
        if not fits[operator]:
            return False
    return True


def matches(document: dict[str, Any], query: dict[str, Any]) -> bool:
    ((name, body),) = query.items()
    if name == "match_all":
        return True
    if name == "bool":
        if not all(matches(document, q) for q in body.get("must", []) + body.get("filter", [])):
            return False
        if any(matches(document, q) for q in body.get("must_not", [])):
            return False
        should = body.get("should", [])
        least = body.get(
            "minimum_should_match",
            int(bool(should) and not (body.get("must") or body.get("filter"))),
        )
        return sum(matches(document, q) for q in should) >= least
    if name == "exists":
        if body["field"] == "vo":
            return (
                keyword(document, "VOName") is not None
                or keyword(document, "ReportableVOName") is not None
            )
        return value_of(document, body["field"]) is not None
    ((field, value),) = body.items()
    if name == "term":
        return is_term(document, field, value)
    if name == "terms":
        return any(is_term(document, field, one) for one in value)
    if name == "range":
        return in_range(document, field, value)
    assert name in {"prefix", "wildcard"}
    pattern = value if name == "wildcard" else value + "*"
    return (
        is_vo(document, pattern)
        if field == "vo"
        else same_pattern(keyword(document, field), pattern)
    )


# -- generated filters ------------------------------------------------------------------------------

WORDS = ["cms", "CMS", "/cms", "/cms/Role=production", "a b", "c[m]s", "é", "nothing"]
NUMBER_WORDS = [0, 1, 8, 1.5, -3, "8", "7.5"]
PATTERNS = ["*", "c*", "?ms", "*[*", "/*", "*cms*", "c[m]s", "c?s", "*Role*"]


def leaf_for(fields: list[str], values: list[Any]) -> st.SearchStrategy[dict[str, Any]]:
    field, value = st.sampled_from(fields), st.sampled_from(values)
    return st.one_of(
        st.builds(lambda f, v: {"term": {f: v}}, field, value),
        st.builds(lambda f, v: {"terms": {f: v}}, field, st.lists(value, max_size=20)),
        st.builds(lambda f: {"exists": {"field": f}}, field),
    )


def ranges_for(fields: list[str], values: list[Any]) -> st.SearchStrategy[dict[str, Any]]:
    bound = st.sampled_from(values)
    low = st.one_of(
        st.just({}), st.builds(lambda v: {"gt": v}, bound), st.builds(lambda v: {"gte": v}, bound)
    )
    high = st.one_of(
        st.just({}), st.builds(lambda v: {"lt": v}, bound), st.builds(lambda v: {"lte": v}, bound)
    )
    return st.builds(lambda f, a, b: {"range": {f: {**a, **b}}}, st.sampled_from(fields), low, high)


leaves = st.one_of(
    leaf_for(["VOName", "SiteName", "Resource_x", "Resource_condor-x", "nosuch", "vo"], WORDS),
    leaf_for(LONGS + DOUBLES, NUMBER_WORDS),
    leaf_for(DATE_FIELDS, list(DATES)),
    leaf_for([FLAG], [True, False, "true"]),
    leaf_for(["y"], ["1", "1.5", "true"]),
    ranges_for(LONGS + DOUBLES, NUMBER_WORDS),
    ranges_for(DATE_FIELDS, list(DATES)),
    ranges_for(["VOName", "SiteName"], WORDS),
    st.builds(
        lambda f, p: {"wildcard": {f: p}},
        st.sampled_from(["VOName", "Resource_x", "vo"]),
        st.sampled_from(PATTERNS),
    ),
    st.builds(
        lambda f, p: {"prefix": {f: p}},
        st.sampled_from(["VOName", "SiteName"]),
        st.sampled_from(["c", "/", "c["]),
    ),
    st.just({"match_all": {}}),
)
queries = st.recursive(
    leaves,
    lambda inner: st.builds(
        lambda body: {"bool": body},
        st.fixed_dictionaries(
            {},
            optional={
                "must": st.lists(inner, max_size=2),
                "filter": st.lists(inner, max_size=2),
                "should": st.lists(inner, max_size=3),
                "must_not": st.lists(inner, max_size=2),
                "minimum_should_match": st.integers(0, 3),
            },
        ),
    ),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with_file = SqliteRecordStore(Path(tmp_path_factory.mktemp("filters")) / "records.sqlite")
    yield with_file
    with_file.close()


def fill(store: SqliteRecordStore, given_documents: list[dict[str, Any]]) -> None:
    old = [record.id for record in store.scan(Selection())]
    store.delete(Kind.RAW, old)
    store.put([StoredRecord.of(Kind.RAW, f"r{i}", d, 0) for i, d in enumerate(given_documents)])


MANY = settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@MANY
@given(st.lists(documents, min_size=1, max_size=12), st.lists(queries, min_size=1, max_size=6))
@example([{"VOName": "/CMS/x"}, {"VOName": "/atlas/cms"}], [{"wildcard": {"vo": "*cms*"}}])
def test_json_filters_mean_what_python_computes(store, given_documents, given_queries):
    fill(store, given_documents)
    for query in given_queries:
        expected = {f"r{i}" for i, d in enumerate(given_documents) if matches(d, query)}
        selection = Selection(condition=condition_of({"query": query}, NOW))
        assert {record.id for record in store.scan(selection)} == expected, query
        assert store.count(selection) == len(expected)


# -- query strings: clauses from left to right ---------------------------------------------------------

ATOMS: list[tuple[str, dict[str, Any]]] = [
    ("VOName:cms", {"term": {"VOName": "cms"}}),
    ('VOName:"/cms/Role=production"', {"term": {"VOName": "/cms/Role=production"}}),
    (r"VOName:c\[m\]s", {"term": {"VOName": "c[m]s"}}),
    ("VOName:(a b)", {"term": {"VOName": "a b"}}),
    (r"VOName:a\ b", {"term": {"VOName": "a b"}}),
    ("vo=cms", {"term": {"vo": "cms"}}),
    ("vo:*cms*", {"wildcard": {"vo": "*cms*"}}),
    ("VOName:?ms", {"wildcard": {"VOName": "?ms"}}),
    ("VOName:*", {"exists": {"field": "VOName"}}),
    ("_exists_:SiteName", {"exists": {"field": "SiteName"}}),
    ("WallDuration:>1", {"range": {"WallDuration": {"gt": 1}}}),
    ("WallDuration:<=7.5", {"range": {"WallDuration": {"lte": 7.5}}}),
    ("Processors=8", {"term": {"Processors": 8}}),
    ("CpuDuration:[1 TO 8}", {"range": {"CpuDuration": {"gte": 1, "lt": 8}}}),
    ("CpuDuration:{* TO 8]", {"range": {"CpuDuration": {"lte": 8}}}),
    ('CpuDuration:"-3"', {"term": {"CpuDuration": -3}}),
    ("EndTime:2026-01", {"term": {"EndTime": "2026-01"}}),
    ("EndTime:>2026-01-02T03", {"range": {"EndTime": {"gt": "2026-01-02T03"}}}),
    (
        "EndTime:[2026-01-02 TO 2026-01-02]",
        {"range": {"EndTime": {"gte": "2026-01-02", "lte": "2026-01-02"}}},
    ),
    ("EndTime:<2026-01-02||/M", {"range": {"EndTime": {"lt": "2026-01-02||/M"}}}),
    ("QueueTime:>=now-1d", {"range": {"QueueTime": {"gte": "now-1d"}}}),
    ("nosuch:1", {"term": {"nosuch": "1"}}),
    ("*:*", {"match_all": {}}),
    ("VOName:cms^2", {"term": {"VOName": "cms"}}),
]


@st.composite
def strings(draw, depth=2):
    """A query string and its meaning, computed as Lucene's classic parser makes clauses."""
    text, roles, queries_ = "", [], []
    for i in range(draw(st.integers(1, 4))):
        joint = draw(st.sampled_from([" AND ", " OR ", " "])) if i else ""
        sign = draw(st.sampled_from(["", "", "", "NOT ", "-", "+"]))
        if depth and draw(st.integers(0, 3)) == 0:
            inner, query = draw(strings(depth - 1))
            inner = f"({inner})"
        else:
            inner, query = draw(st.sampled_from(ATOMS))
        text += joint + sign + inner
        if "AND" in joint and roles[-1] == "should":
            roles[-1] = "must"
        is_not = sign in {"NOT ", "-"}
        roles.append(
            "must_not" if is_not else "must" if sign == "+" or "AND" in joint else "should"
        )
        queries_.append(query)
    body: dict[str, Any] = {"must": [], "should": [], "must_not": []}
    for role, query in zip(roles, queries_, strict=True):
        body[role].append(query)
    return text, {"bool": body}


@MANY
@given(st.lists(documents, min_size=1, max_size=12), st.lists(strings(), min_size=1, max_size=6))
def test_query_strings_make_clauses_from_left_to_right(store, given_documents, given_strings):
    fill(store, given_documents)
    for text, query in given_strings:
        expected = {f"r{i}" for i, d in enumerate(given_documents) if matches(d, query)}
        found = {record.id for record in store.scan(Selection(condition=read_filter(text, NOW)))}
        assert found == expected, text
