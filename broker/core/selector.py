"""Selectors: which messages a subscription wants, in JMS's subset of SQL-92 (JMS 2.0, 3.8.1).

A text is parsed once into nested functions that take the look-up of one message and return a value; None is SQL's unknown.
Bounds: SELECTOR_CHARS_MAX characters, DEPTH_MAX nested parentheses or signs, NODES_MAX operands; so evaluation ends soon whatever a
client wrote.  Header texts of STOMP messages have no type: next to a number or truth value they are read as one (ActiveMQ's
`convert_string_expressions:`, which AMQP texts need as prefix).  Names with hyphens stand in double quotes, or after the
prefix `hyphenated_props:`.  A selector depends on nothing but the message, so what it refused once it always refuses.
Tests: tests/unit/broker/core/test_selector.py, tests/property/test_selector.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, final

from broker.core.message import Message
from broker.errors import PreconditionFailed
from broker.wire.properties import STOMP, Properties

SELECTOR_CHARS_MAX: Final = 4096
DEPTH_MAX: Final = 32
CHAIN_MAX: Final = 8
NODES_MAX: Final = 500
PATTERN_CHARS_MAX: Final = 255
NUMBER_CHARS_MAX: Final = 64

Lookup = Callable[[str], Any]
Evaluate = Callable[[Lookup], Any]

_TOKEN: Final = re.compile(
    r"""\s*(?:
    (?P<number>0[xX][0-9a-fA-F]+[lL]?|(?:\d+\.\d*|\.\d+|\d+)(?:[eE][+-]?\d+)?[lLdDfF]?)
    |(?P<text>'(?:[^']|'')*')
    |(?P<quoted>"(?:[^"]|"")*")
    |(?P<name>[^\W\d][\w.$]*|\$[\w.$]*)
    |(?P<sign><>|<=|>=|[=<>+\-*/(),])
    |(?P<end>\Z)
    )""",
    re.VERBOSE,
)
_HYPHENATED: Final = re.compile(r"[^\W\d][\w.$-]*")
_NUMBER: Final = re.compile(r"\s*[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?\s*", re.ASCII)
_KEYWORDS: Final = frozenset(
    ("AND", "OR", "NOT", "BETWEEN", "IN", "LIKE", "ESCAPE", "IS", "NULL", "TRUE", "FALSE")
)
_PREFIXES: Final = ("convert_string_expressions:", "hyphenated_props:")
_LONG_MAX: Final = 1 << 63
_COMPARISONS: Final = frozenset({"=", "<>", "<", "<=", ">", ">="})
_PROPERTIES: Final = {
    "JMSCorrelationID": "correlation_id",
    "JMSMessageID": "message_id",
    "JMSReplyTo": "reply_to",
    "JMSType": "type",
    "content-type": "content_type",
    "content-encoding": "content_encoding",
    "correlation-id": "correlation_id",
    "reply-to": "reply_to",
    "expiration": "expiration",
    "amqp-message-id": "message_id",
    "timestamp": "timestamp",
    "type": "type",
    "user-id": "user_id",
    "app-id": "app_id",
}


@final
class Text(str):
    """A text without a type of its own: a number or a truth value if it reads as one."""

    __slots__ = ()


@final
class Selector:
    """A parsed selector; raises PreconditionFailed for a text that is none."""

    __slots__ = ("_evaluate", "_is_converting", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        if len(text) > SELECTOR_CHARS_MAX:
            raise _invalid(f"longer than {SELECTOR_CHARS_MAX} characters")
        self._is_converting = False
        has_hyphens = False
        rest = text.strip()
        while rest.startswith(_PREFIXES):
            if rest.startswith(_PREFIXES[0]):
                self._is_converting = True
            else:
                has_hyphens = True
            rest = rest.partition(":")[2].lstrip()
        self._evaluate = _Parser(rest, has_hyphens).parse()

    def matches(self, message: Message) -> bool:
        """Whether the selector is true for a message; unknown is not."""
        return _truth(self._evaluate(lookup_of(message, self._is_converting))) is True

    def evaluate(self, lookup: Lookup) -> bool | None:
        """The value for names as `lookup` gives them: true, false, or unknown (None)."""
        return _truth(self._evaluate(lookup))


def lookup_of(message: Message, is_converting: bool) -> Lookup:
    """How a selector reads a message: JMS names, the STOMP names of properties, then headers."""
    properties = message.properties
    is_untyped = is_converting or message.format == STOMP

    def lookup(name: str) -> Any:
        value = _named(message, properties, name)
        if is_untyped and isinstance(value, str):
            return Text(value)
        if value is None or isinstance(value, bool | int | float | str):
            return value
        return None  # A table, an array, bytes: nothing that a selector can speak of.

    return lookup


def _named(message: Message, properties: Properties, name: str) -> Any:
    if name in _PROPERTIES:
        return getattr(properties, _PROPERTIES[name])
    if name in ("JMSPriority", "priority"):
        return message.priority
    if name == "JMSDeliveryMode":
        return "PERSISTENT" if message.is_persistent else "NON_PERSISTENT"
    if name == "persistent":
        return message.is_persistent
    if name == "JMSTimestamp":
        return message.published_at
    if name == "JMSExpiration":
        return message.expires_at
    headers = properties.headers
    return None if headers is None else headers.get(name)


@final
class _Parser:
    """Recursive descent; each method reads one level of the grammar and gives its function."""

    def __init__(self, text: str, has_hyphens: bool) -> None:
        self._text = text
        self._has_hyphens = has_hyphens
        self._at = 0
        self._depth = 0
        self._nodes = 0
        self._kind = ""
        self._value: Any = None
        self._next()

    def parse(self) -> Evaluate:
        whole = self._either()
        if self._kind != "end":
            raise self._failure("an operator")
        return whole

    # Tokens

    def _next(self) -> None:
        found = _TOKEN.match(self._text, self._at)
        if found is None:
            self._kind = "none"
            raise self._failure("a name, number, text or operator")
        kind = found.lastgroup or "end"
        raw = found[kind]
        self._at = found.end()
        if kind == "name" and self._has_hyphens:
            whole = _HYPHENATED.match(self._text, found.start(kind))
            if whole is not None:
                raw = whole[0]
                self._at = whole.end()
        self._value = raw
        if kind == "name" and raw.upper() in _KEYWORDS:
            kind = "keyword"
            self._value = raw.upper()
        elif kind == "text":
            self._value = raw[1:-1].replace("''", "'")
        elif kind == "quoted":
            kind = "name"
            self._value = raw[1:-1].replace('""', '"')
        self._kind = kind

    def _take(self, kind: str, *values: str) -> bool:
        """Go past the token if it is one of these."""
        if self._kind != kind or self._value not in values:
            return False
        self._next()
        return True

    def _expect(self, kind: str, value: str) -> None:
        if not self._take(kind, value):
            raise self._failure(f"'{value}'")

    def _failure(self, expected: str) -> PreconditionFailed:
        return _invalid(f"{expected} expected before '{self._text[self._at : self._at + 40]}'")

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise _invalid(f"nested deeper than {DEPTH_MAX}")

    def _count(self) -> None:
        self._nodes += 1
        if self._nodes > NODES_MAX:
            raise _invalid(f"more than {NODES_MAX} operands")

    # Grammar

    def _either(self) -> Evaluate:
        parts = [self._both()]
        while self._take("keyword", "OR"):
            parts.append(self._both())
        return parts[0] if len(parts) == 1 else _or(parts)

    def _both(self) -> Evaluate:
        parts = [self._negated()]
        while self._take("keyword", "AND"):
            parts.append(self._negated())
        return parts[0] if len(parts) == 1 else _and(parts)

    def _negated(self) -> Evaluate:
        if not self._take("keyword", "NOT"):
            return self._compared()
        self._deeper()
        inner = self._negated()
        self._depth -= 1
        return _not(inner)

    def _compared(self) -> Evaluate:
        left = self._sum()
        for _ in range(CHAIN_MAX):
            operator = self._value
            if self._kind == "sign" and operator in _COMPARISONS:
                self._count()
                self._next()
                left = _compare(left, operator, self._sum())
            elif self._take("keyword", "IS"):
                self._count()
                is_negated = self._take("keyword", "NOT")
                self._expect("keyword", "NULL")
                left = _is_null(left, is_negated)
            elif self._kind == "keyword" and operator in ("NOT", "BETWEEN", "IN", "LIKE"):
                self._count()
                is_negated = self._take("keyword", "NOT")
                test = self._ranged(left)
                left = _not(test) if is_negated else test
            else:
                return left
        raise _invalid(f"more than {CHAIN_MAX} comparisons in a row")

    def _ranged(self, left: Evaluate) -> Evaluate:
        if self._take("keyword", "BETWEEN"):
            low = self._sum()
            self._expect("keyword", "AND")
            return _and([_compare(left, ">=", low), _compare(left, "<=", self._sum())])
        if self._take("keyword", "IN"):
            self._expect("sign", "(")
            texts = [self._string()]
            while self._take("sign", ","):
                texts.append(self._string())
            self._expect("sign", ")")
            return _is_one_of(left, frozenset(texts))
        self._expect("keyword", "LIKE")
        pattern = self._string()
        escape = ""
        if self._take("keyword", "ESCAPE"):
            escape = self._string()
            if len(escape) != 1:
                raise _invalid("ESCAPE takes one character")
        return _is_like(left, pattern, escape)

    def _string(self) -> str:
        value = self._value
        if self._kind != "text":
            raise self._failure("a text in single quotes")
        self._count()
        self._next()
        return str(value)

    def _sum(self) -> Evaluate:
        return self._chain(self._product, "+", "-")

    def _product(self) -> Evaluate:
        return self._chain(self._signed, "*", "/")

    def _chain(self, operand: Callable[[], Evaluate], *operators: str) -> Evaluate:
        first = operand()
        rest: list[tuple[str, Evaluate]] = []
        while self._kind == "sign" and self._value in operators:
            operator = self._value
            self._next()
            rest.append((operator, operand()))
        return first if not rest else _arithmetic(first, rest)

    def _signed(self) -> Evaluate:
        if self._kind != "sign" or self._value not in ("+", "-"):
            return self._operand()
        is_minus = self._value == "-"
        self._next()
        self._deeper()
        inner = self._signed()
        self._depth -= 1
        return _signed(inner, is_minus)

    def _operand(self) -> Evaluate:
        self._count()
        kind, value = self._kind, self._value
        if kind == "name":
            self._next()
            return lambda lookup: lookup(value)
        if kind == "text":
            self._next()
            return lambda _: value
        if kind == "number":
            number = _literal(value)
            self._next()
            return lambda _: number
        if kind == "keyword" and value in ("TRUE", "FALSE"):
            is_true = value == "TRUE"
            self._next()
            return lambda _: is_true
        if self._take("sign", "("):
            self._deeper()
            inner = self._either()
            self._depth -= 1
            self._expect("sign", ")")
            return inner
        raise self._failure("a name, number or text")


# Values


def _literal(raw: str) -> int | float:
    if len(raw) > NUMBER_CHARS_MAX:
        raise _invalid(f"a number of more than {NUMBER_CHARS_MAX} digits")
    if raw[:2] in ("0x", "0X"):
        return int(raw.rstrip("lL"), 16)
    digits = raw.rstrip("lLdDfF")
    if digits.isdigit() and raw[-1] not in "dDfF":
        try:
            # Java's integers: a leading zero means octal.
            return int(digits, 8 if len(digits) > 1 and digits[0] == "0" else 10)
        except ValueError:
            raise _invalid(f"'{raw}' is no octal number") from None
    return float(digits)


def _number(value: Any) -> int | float | None:
    """The value as a number; None if it is none."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float):
        return value
    if not isinstance(value, Text) or len(value) > NUMBER_CHARS_MAX or not _NUMBER.fullmatch(value):
        return None
    return float(value) if set(".eE") & set(value) else int(value)


def _truth(value: Any) -> bool | None:
    if isinstance(value, bool):
        return value
    if isinstance(value, Text) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    return None


# Operators


def _or(parts: list[Evaluate]) -> Evaluate:
    def evaluate(lookup: Lookup) -> bool | None:
        result: bool | None = False
        for part in parts:
            one = _truth(part(lookup))
            if one:
                return True
            if one is None:
                result = None
        return result

    return evaluate


def _and(parts: list[Evaluate]) -> Evaluate:
    def evaluate(lookup: Lookup) -> bool | None:
        result: bool | None = True
        for part in parts:
            one = _truth(part(lookup))
            if one is None:
                result = None
            elif not one:
                return False
        return result

    return evaluate


def _not(inner: Evaluate) -> Evaluate:
    def evaluate(lookup: Lookup) -> bool | None:
        value = _truth(inner(lookup))
        return None if value is None else not value

    return evaluate


def _is_null(left: Evaluate, is_negated: bool) -> Evaluate:
    return lambda lookup: (left(lookup) is None) != is_negated


def _is_one_of(left: Evaluate, texts: frozenset[str]) -> Evaluate:
    def evaluate(lookup: Lookup) -> bool | None:
        value = left(lookup)
        if value is None:
            return None
        return isinstance(value, str) and str(value) in texts

    return evaluate


def _compare(left: Evaluate, operator: str, right: Evaluate) -> Evaluate:
    def evaluate(lookup: Lookup) -> bool | None:
        a, b = left(lookup), right(lookup)
        return None if a is None or b is None else compare(a, operator, b)

    return evaluate


def compare(a: Any, operator: str, b: Any) -> bool:
    """Compare two values that are known; unlike types are neither equal, unequal, less nor greater (JMS 3.8.1.2)."""
    if isinstance(a, str) and isinstance(b, str):
        if operator in ("=", "<>"):
            return (str(a) == str(b)) == (operator == "=")
    elif isinstance(a, bool) or isinstance(b, bool):
        p, q = _truth(a), _truth(b)
        if p is None or q is None or operator not in ("=", "<>"):
            return False
        return (p == q) == (operator == "=")
    x, y = _number(a), _number(b)
    if x is None or y is None:
        return False
    return {
        "=": x == y,
        "<>": x != y,
        "<": x < y,
        "<=": x <= y,
        ">": x > y,
        ">=": x >= y,
    }[operator]


def _signed(inner: Evaluate, is_minus: bool) -> Evaluate:
    def evaluate(lookup: Lookup) -> int | float | None:
        value = _number(inner(lookup))
        return -value if is_minus and value is not None else value

    return evaluate


def _arithmetic(first: Evaluate, rest: list[tuple[str, Evaluate]]) -> Evaluate:
    def evaluate(lookup: Lookup) -> int | float | None:
        total = _number(first(lookup))
        for operator, part in rest:
            value = _number(part(lookup))
            if total is None or value is None:
                return None
            total = calculate(total, operator, value)
        return total

    return evaluate


def calculate(a: float, operator: str, b: float) -> int | float | None:
    """One step of arithmetic in Java's manner; None for a division by zero.

    Whole numbers stay whole (division cuts towards zero); beyond 64 bits they become floating-point numbers.
    """
    try:
        if operator == "+":
            result = a + b
        elif operator == "-":
            result = a - b
        elif operator == "*":
            result = a * b
        elif isinstance(a, int) and isinstance(b, int):
            quotient = abs(a) // abs(b)
            result = quotient if (a < 0) == (b < 0) else -quotient
        else:
            result = a / b
        return float(result) if abs(result) >= _LONG_MAX else result
    except (ZeroDivisionError, OverflowError):
        return None


def _is_like(left: Evaluate, pattern: str, escape: str) -> Evaluate:
    matches = like(pattern, escape)

    def evaluate(lookup: Lookup) -> bool | None:
        value = left(lookup)
        if value is None:
            return None
        return isinstance(value, str) and matches(value)

    return evaluate


def like(pattern: str, escape: str) -> Callable[[str], bool]:
    """Make the test for a LIKE pattern: `%` is any characters, `_` one, `escape` takes their meaning away.

    Looks for the parts between `%` one after the other, so its cost is bounded by the product of both lengths.
    """
    if len(pattern) > PATTERN_CHARS_MAX:
        raise _invalid(f"a pattern of more than {PATTERN_CHARS_MAX} characters")
    pieces = [""]
    at = 0
    while at < len(pattern):
        char = pattern[at]
        if escape and char == escape:
            at += 1
            if at == len(pattern) or pattern[at] not in ("%", "_", escape):
                raise _invalid("the escape character stands before %, _ or itself")
            pieces[-1] += re.escape(pattern[at])
        elif char == "%":
            pieces.append("")
        else:
            pieces[-1] += "." if char == "_" else re.escape(char)
        at += 1
    parts = [re.compile(piece, re.DOTALL) for piece in pieces]
    first, last = parts[0], parts[-1]
    last_chars = _fixed_length(pieces[-1])

    def matches(value: str) -> bool:
        if len(parts) == 1:
            return first.fullmatch(value) is not None
        found = first.match(value)
        if found is None:
            return False
        at = found.end()
        end = len(value) - last_chars
        for part in parts[1:-1]:
            found = part.search(value, at, max(at, end))
            if found is None:
                return False
            at = found.end()
        return end >= at and last.fullmatch(value, end) is not None

    return matches


def _fixed_length(piece: str) -> int:
    """Characters that a piece without wildcards of open length matches."""
    return len(re.sub(r"\\(.)", r"\1", piece, flags=re.DOTALL))


def _invalid(why: str) -> PreconditionFailed:
    return PreconditionFailed(f"invalid selector: {why}")
