"""Selectors against a plain evaluator of the tree they were written from: SQL's three values, JMS's comparisons."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

import hypothesis.strategies as st
from hypothesis import given, settings

from broker.core.selector import Selector, Text, like
from broker.errors import PreconditionFailed

NAMES = ("a", "b", "flag", "none")
NUMBERS = st.one_of(st.integers(0, 20), st.sampled_from([0.5, 1.5, 10.25]))
TEXTS = st.sampled_from(["", "x", "xy", "it's", "5", "true", "100%", "a_b"])
NUMERIC = st.recursive(
    st.one_of(
        st.tuples(st.just("number"), NUMBERS), st.tuples(st.just("name"), st.sampled_from(NAMES))
    ),
    lambda inner: st.one_of(
        st.tuples(st.sampled_from("+-*"), inner, inner), st.tuples(st.just("minus"), inner)
    ),
    max_leaves=4,
)
VALUE = st.one_of(NUMERIC, st.tuples(st.just("text"), TEXTS))
TEST = st.one_of(
    st.tuples(st.sampled_from(["=", "<>", "<", "<=", ">", ">="]), VALUE, VALUE),
    st.tuples(st.just("between"), VALUE, NUMERIC, NUMERIC),
    st.tuples(st.just("in"), st.sampled_from(NAMES), st.lists(TEXTS, min_size=1, max_size=3)),
    st.tuples(st.just("like"), st.sampled_from(NAMES), st.text("xy%_5", max_size=4)),
    st.tuples(st.just("null"), st.sampled_from(NAMES)),
    st.tuples(st.just("name"), st.sampled_from(NAMES)),
    st.tuples(st.just("truth"), st.booleans()),
)
CONDITION = st.recursive(
    TEST,
    lambda inner: st.one_of(
        st.tuples(st.sampled_from(["and", "or"]), inner, inner), st.tuples(st.just("not"), inner)
    ),
    max_leaves=8,
)
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "a": st.one_of(st.integers(-5, 20), TEXTS, st.booleans(), TEXTS.map(Text)),
        "b": st.one_of(st.sampled_from([1.5, 7.0]), TEXTS.map(Text)),
        "flag": st.one_of(st.booleans(), st.sampled_from([Text("true"), Text("FALSE"), Text("x")])),
    },
)


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def written(node: Any) -> str:
    kind, *rest = node
    if kind in ("number", "name"):
        return str(rest[0])
    if kind == "text":
        return quoted(rest[0])
    if kind == "truth":
        return str(rest[0])
    if kind == "minus":
        return f"-({written(rest[0])})"
    if kind == "not":
        return f"NOT ({written(rest[0])})"
    if kind == "null":
        return f"{rest[0]} IS NULL"
    if kind == "in":
        return f"{rest[0]} IN ({', '.join(map(quoted, rest[1]))})"
    if kind == "like":
        return f"{rest[0]} LIKE {quoted(rest[1])}"
    if kind == "between":
        return f"{written(rest[0])} BETWEEN {written(rest[1])} AND {written(rest[2])}"
    return f"({written(rest[0])}) {kind} ({written(rest[1])})"


def number(value: Any) -> Fraction | None:
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, str) and not isinstance(value, Text):
        return None
    try:
        return Fraction(value)
    except ValueError:
        return None


def truth(value: Any) -> bool | None:
    if isinstance(value, Text):
        return {"true": True, "false": False}.get(value.lower())
    return value if isinstance(value, bool) else None


def both(one: bool | None, two: bool | None) -> bool | None:
    if one is False or two is False:
        return False
    return None if None in (one, two) else True


def compared(kind: str, a: Any, b: Any) -> bool | None:
    if a is None or b is None:
        return None
    if isinstance(a, str) and isinstance(b, str) and kind in ("=", "<>"):
        return (str(a) == str(b)) == (kind == "=")
    if isinstance(a, bool) or isinstance(b, bool):
        p, q = truth(a), truth(b)
        return p is not None and q is not None and kind in ("=", "<>") and (p == q) == (kind == "=")
    x, y = number(a), number(b)
    if x is None or y is None:
        return False
    order = (x > y) - (x < y)
    return {"=": order == 0, "<>": order != 0, "<": order < 0, ">": order > 0}.get(
        kind, order <= 0 if kind == "<=" else order >= 0
    )


def value(node: Any, headers: dict[str, Any]) -> Any:
    kind, *rest = node
    if kind in ("number", "text", "truth"):
        return rest[0]
    if kind == "name":
        return headers.get(rest[0])
    if kind == "minus":
        found = number(value(rest[0], headers))
        return None if found is None else -found
    if kind in ("+", "-", "*"):
        x, y = (number(value(one, headers)) for one in rest)
        if x is None or y is None:
            return None
        return {"+": x + y, "-": x - y, "*": x * y}[kind]
    if kind == "not":
        found = truth(value(rest[0], headers))
        return None if found is None else not found
    if kind == "and":
        return both(*(truth(value(one, headers)) for one in rest))
    if kind == "or":
        negated = [truth(value(one, headers)) for one in rest]
        found = both(*(None if one is None else not one for one in negated))
        return None if found is None else not found
    if kind == "null":
        return headers.get(rest[0]) is None
    if kind in ("in", "like"):
        found = headers.get(rest[0])
        if found is None:
            return None
        if not isinstance(found, str):
            return False
        if kind == "in":
            return str(found) in rest[1]
        pattern = "".join({"%": ".*", "_": "."}.get(c, re.escape(c)) for c in rest[1])
        return re.fullmatch(pattern, found, re.DOTALL) is not None
    if kind == "between":
        subject = value(rest[0], headers)
        low, high = (value(one, headers) for one in rest[1:])
        return both(compared(">=", subject, low), compared("<=", subject, high))
    return compared(kind, *(value(one, headers) for one in rest))


@settings(max_examples=300, deadline=None)
@given(CONDITION, HEADERS)
def test_a_selector_means_what_was_written(node, headers):
    selector = Selector(written(node))
    assert selector.evaluate(headers.get) == truth(value(node, headers)), written(node)


@settings(max_examples=300, deadline=None)
@given(st.text("ab%_\n.", max_size=8), st.text("ab\n.", max_size=10))
def test_like_is_the_plain_regular_expression(pattern, text):
    plain = "".join({"%": ".*", "_": "."}.get(c, re.escape(c)) for c in pattern)
    assert like(pattern, "")(text) == (re.fullmatch(plain, text, re.DOTALL) is not None)


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(
        st.text(max_size=60),
        st.lists(
            st.sampled_from(
                [
                    "a",
                    "'x'",
                    "1",
                    "(",
                    ")",
                    "AND",
                    "OR",
                    "NOT",
                    "=",
                    "<>",
                    "+",
                    "-",
                    "*",
                    "/",
                    "IN",
                    "LIKE",
                    "IS",
                    "NULL",
                    "BETWEEN",
                    ",",
                    "ESCAPE",
                    "'!'",
                    '"q"',
                    "1e9",
                    "0x",
                    "TRUE",
                ]
            ),
            max_size=25,
        ).map(" ".join),
    )
)
def test_any_text_is_a_selector_or_refused(text):
    try:
        selector = Selector(text)
    except PreconditionFailed:
        return
    for headers in ({}, {"a": Text("5")}, {"a": 1 << 62}, {"a": True}, {"a": 1e308}):
        assert selector.evaluate(headers.get) in (True, False, None)
