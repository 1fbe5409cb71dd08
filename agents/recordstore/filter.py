"""Filters as users write them, a Lucene string or Elasticsearch JSON, as conditions.

Taken: query_string, bool (must, filter, should, must_not, minimum_should_match), term, terms, range, exists,
prefix, wildcard, ids, match_all, match_none; bare or wrapped in {"query": …}.
Invariant: a filter means what Elasticsearch means by it, or UntranslatableFilter says what to write instead.
Source: Elasticsearch reference 8, "Query DSL".
Tests: tests/unit/agents/recordstore/test_filter.py, tests/property/test_filters.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final, final

from agents.recordstore.condition import AllOf, AtLeast, Condition, Everything, Not, Nothing, any_of
from agents.recordstore.fields import ID_FIELD
from agents.recordstore.lucene import DEPTH_MAX, QueryString, pattern_parts
from agents.recordstore.terms import CONDITIONS_MAX, QUERY_LENGTH_MAX, Terms, UntranslatableFilter

FILTER_LENGTH_MAX: Final = 1024 * 1024

_INSTEAD: Final = {
    "fuzzy": "term or wildcard",
    "match": "term",
    "match_bool_prefix": "prefix",
    "match_phrase": "term",
    "match_phrase_prefix": "prefix",
    "multi_match": "bool with should and a term for each field",
    "nested": "term: records are flat",
    "regexp": "wildcard",
    "script": "range, term and bool",
    "simple_query_string": "query_string",
    "constant_score": "bool with filter",
}
_RANGE: Final = {"gte": ">=", "gt": ">", "lte": "<=", "lt": "<"}


def read_filter(text: str, now: datetime | None = None) -> Condition:
    """Read a filter: JSON when it begins with a brace, else a Lucene query string; empty means all.

    `now` is what dates such as now-1d are relative to (None: the present).
    """
    if not text.lstrip().startswith("{"):
        return QueryString(Terms(now or datetime.now(UTC)), None, "OR").read(text)
    if len(text) > FILTER_LENGTH_MAX:
        raise UntranslatableFilter(
            f"the filter has {len(text)} characters; the limit is {FILTER_LENGTH_MAX}"
        )
    try:
        query = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UntranslatableFilter(f"the filter is not JSON: {error}") from error
    return condition_of(query, now)


def condition_of(query: object, now: datetime | None = None) -> Condition:
    """Read a filter given as parsed JSON, bare or wrapped in {"query": …}; None or {} means all."""
    if query is None or query == {}:
        return Everything()
    if isinstance(query, str):
        return read_filter(query, now)
    if isinstance(query, Mapping) and "query" in query:
        if len(query) > 1:
            others = ", ".join(sorted(str(key) for key in query if key != "query"))
            raise UntranslatableFilter(f"beside query nothing is taken: leave out {others}")
        query = query["query"]
    return _Reader(now or datetime.now(UTC)).condition(query, 0)


@final
class _Reader:
    """One reading of a JSON filter: a method for each query."""

    def __init__(self, now: datetime) -> None:
        self._terms = Terms(now)
        self._queries = 0
        self._readers: dict[str, Callable[[object, int], Condition]] = {
            "bool": self._bool,
            "exists": self._exists,
            "ids": self._ids,
            "match_all": self._match_all,
            "match_none": self._match_none,
            "prefix": self._prefix,
            "query_string": self._query_string,
            "range": self._range,
            "term": self._term,
            "terms": self._terms_query,
            "wildcard": self._wildcard,
        }

    def condition(self, query: object, depth: int) -> Condition:
        if depth > DEPTH_MAX:
            raise UntranslatableFilter(f"nested deeper than {DEPTH_MAX}: write it flatter")
        self._queries += 1
        if self._queries > CONDITIONS_MAX:
            raise UntranslatableFilter(
                f"more than {CONDITIONS_MAX} queries in one filter: use terms"
            )
        if not isinstance(query, Mapping) or len(query) != 1:
            raise UntranslatableFilter(
                'a query is an object with one key: write {"term": {"VOName": "cms"}}; join several in {"bool": {"filter": […]}}'
            )
        ((name, body),) = query.items()
        reader = self._readers.get(name)
        if reader is None:
            instead = _INSTEAD.get(name, ", ".join(sorted(self._readers)))
            raise UntranslatableFilter(f"{str(name)[:40]} is not taken: write {instead}")
        return reader(body, depth)

    def _match_all(self, body: object, _depth: int) -> Condition:
        _options(body, "match_all", ())
        return Everything()

    def _match_none(self, body: object, _depth: int) -> Condition:
        _options(body, "match_none", ())
        return Nothing()

    def _bool(self, body: object, depth: int) -> Condition:
        options = _options(
            body, "bool", ("must", "filter", "should", "must_not", "minimum_should_match")
        )
        must = [*self._list(options, "must", depth), *self._list(options, "filter", depth)]
        should = self._list(options, "should", depth)
        minimum = options.get("minimum_should_match", 0 if must or not should else 1)
        if isinstance(minimum, str) and minimum.isdigit():
            minimum = int(minimum)
        if isinstance(minimum, bool) or not isinstance(minimum, int) or minimum < 0:
            raise UntranslatableFilter("minimum_should_match: write a number of queries, 0 or more")
        if minimum > len(should):
            must.append(Nothing())
        elif minimum == 1:
            must.append(any_of(tuple(should)))
        elif minimum > 1:
            must.append(AtLeast(minimum, tuple(should)))
        must.extend(Not(inner) for inner in self._list(options, "must_not", depth))
        return AllOf(tuple(must)) if must else Everything()

    def _list(self, options: Mapping[str, object], name: str, depth: int) -> list[Condition]:
        queries = options.get(name, [])
        if not isinstance(queries, list):
            queries = [queries]
        return [self.condition(query, depth + 1) for query in queries]

    def _term(self, body: object, _depth: int) -> Condition:
        field, value = _single_field(body, "term")
        options = _value_options(value, "term", ("value", "case_insensitive"))
        ignores_case = _flag(options, "case_insensitive")
        return self._terms.one_of(field, (options.get("value"),), ignores_case=ignores_case)

    def _terms_query(self, body: object, _depth: int) -> Condition:
        field, values = _single_field(body, "terms")
        if not isinstance(values, list):
            raise UntranslatableFilter(f'terms: write {{"terms": {{"{field}": ["a", "b"]}}}}')
        return self._terms.one_of(field, values)

    def _range(self, body: object, _depth: int) -> Condition:
        field, value = _single_field(body, "range")
        if not isinstance(value, Mapping):
            raise UntranslatableFilter(f'range: write {{"range": {{"{field}": {{"gte": 1}}}}}}')
        options = _options(value, "range", tuple(_RANGE))
        given = {_RANGE[key]: bound for key, bound in options.items() if bound is not None}
        if {">", ">="} <= given.keys() or {"<", "<="} <= given.keys():
            raise UntranslatableFilter("range: write one of gt and gte, one of lt and lte")
        return self._terms.between(field, given)

    def _exists(self, body: object, _depth: int) -> Condition:
        field = _options(body, "exists", ("field",)).get("field")
        if not isinstance(field, str):
            raise UntranslatableFilter('exists: write {"exists": {"field": "VOName"}}')
        return self._terms.exists(field)

    def _ids(self, body: object, _depth: int) -> Condition:
        values = _options(body, "ids", ("values",)).get("values")
        if not isinstance(values, list):
            raise UntranslatableFilter('ids: write {"ids": {"values": ["…"]}}')
        return self._terms.one_of(ID_FIELD, values)

    def _prefix(self, body: object, _depth: int) -> Condition:
        field, value = _single_field(body, "prefix")
        options = _value_options(value, "prefix", ("value", "case_insensitive"))
        text = _pattern_text(options.get("value"), "prefix")
        parts = ((False, text), (True, "*")) if text else ((True, "*"),)
        return self._terms.like(field, parts, ignores_case=_flag(options, "case_insensitive"))

    def _wildcard(self, body: object, _depth: int) -> Condition:
        field, value = _single_field(body, "wildcard")
        options = _value_options(value, "wildcard", ("value", "wildcard", "case_insensitive"))
        text = _pattern_text(options.get("value", options.get("wildcard")), "wildcard")
        ignores_case = _flag(options, "case_insensitive")
        return self._terms.like(field, pattern_parts(text), ignores_case=ignores_case)

    def _query_string(self, body: object, _depth: int) -> Condition:
        options = dict(
            _options(
                body,
                "query_string",
                (
                    "query",
                    "default_field",
                    "fields",
                    "default_operator",
                    "analyze_wildcard",
                    "allow_leading_wildcard",
                ),
            )
        )
        query = options.get("query")
        if not isinstance(query, str):
            raise UntranslatableFilter('query_string: write {"query_string": {"query": "vo:cms"}}')
        if options.get("allow_leading_wildcard", True) is not True:
            raise UntranslatableFilter("allow_leading_wildcard false is not taken: leave it out")
        fields = options.get("fields")
        field = options.get("default_field")
        if isinstance(fields, list) and len(fields) == 1 and field is None:
            field = fields[0]
        elif fields is not None:
            raise UntranslatableFilter(
                "fields: name one, or name the field of each word in the query"
            )
        if field is not None and (not isinstance(field, str) or any(c in field for c in "*?^")):
            raise UntranslatableFilter("default_field: write the name of one field")
        operator = str(options.get("default_operator", "OR")).upper()
        if operator not in {"AND", "OR"}:
            raise UntranslatableFilter("default_operator: write AND or OR")
        return QueryString(self._terms, field, operator).read(query)


def _options(body: object, name: str, allowed: tuple[str, ...]) -> Mapping[str, object]:
    """Give a query's options without those that change scores only; refuse unknown ones."""
    if not isinstance(body, Mapping):
        raise UntranslatableFilter(f"{name}: write an object, {{…}}")
    options = {key: value for key, value in body.items() if key not in {"boost", "_name"}}
    unknown = sorted(str(key) for key in options if key not in allowed)
    if unknown:
        raise UntranslatableFilter(
            f"{name}: {', '.join(unknown)[:80]} is not taken"
            + (f": write {', '.join(allowed)}" if allowed else ": leave it out")
        )
    return options


def _single_field(body: object, name: str) -> tuple[str, object]:
    options = body if isinstance(body, Mapping) else {}
    fields = [key for key in options if key not in {"boost", "_name"}]
    if len(fields) != 1:
        raise UntranslatableFilter(f"{name}: name one field; join several in bool")
    return str(fields[0]), options[fields[0]]


def _value_options(value: object, name: str, allowed: tuple[str, ...]) -> Mapping[str, object]:
    if isinstance(value, Mapping):
        return _options(value, name, allowed)
    return {"value": value}


def _flag(options: Mapping[str, object], name: str) -> bool:
    flag = options.get(name, False)
    if not isinstance(flag, bool):
        raise UntranslatableFilter(f"{name}: write true or false")
    return flag


def _pattern_text(value: object, name: str) -> str:
    if not isinstance(value, str) or len(value) > QUERY_LENGTH_MAX:
        raise UntranslatableFilter(f"{name}: write a text of at most {QUERY_LENGTH_MAX} characters")
    return value
