"""Lucene query strings (`VOName:cms AND WallDuration:>100`) as conditions, with Elasticsearch's meaning or not at all.

Invariants: AND, OR and NOT without parentheses make must and should clauses from left to right, as
Lucene's classic parser does (`a OR b AND c` is `b AND c`); `field:(a b)` on a keyword is the one
term "a b"; whatever has another meaning here, or none, is refused with what to write instead.
Of our own: `=` after a field's name counts as `:`, and `vo` stands for the VO fields (`recordstore.terms`).
Source: Elasticsearch reference, "Query string query"; Lucene classic QueryParser.jj.
Tests: tests/unit/agents/recordstore/test_lucene.py, tests/property/test_filters.py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, final

from luqum import tree as nodes
from luqum.exceptions import ParseError
from luqum.thread import parse

from agents.recordstore.condition import AllOf, Condition, Everything, Not, any_of
from agents.recordstore.fields import FieldType, field_type
from agents.recordstore.terms import Terms, UntranslatableFilter

DEPTH_MAX: Final = 32

_NAME: Final = re.compile(r"[A-Za-z_@][\w.@-]*", re.ASCII)
_UNESCAPE: Final = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_PATTERN_PARTS: Final = re.compile(r"\\u([0-9a-fA-F]{4})|\\(.)|([*?])|([^\\*?]+)", re.DOTALL)
_OPERATIONS: Final = {
    nodes.AndOperation: "AND",
    nodes.OrOperation: "OR",
    nodes.UnknownOperation: "",
}


def with_colons(query: str) -> str:
    """Take `=` after a field's name as `:`; refuse what no position of this syntax can mean.

    Quoted text, values (`VOName:(Role=x)`), `>=` and `<=` stay as they are.
    """
    out: list[str] = []
    # One entry an open parenthesis: whether names may begin inside (not in a field's own group).
    names_allowed = [True]
    is_start = True
    place = 0
    while place < len(query):
        char = query[place]
        if char == '"':
            end = _closing_quote(query, place)
            out.append(query[place:end])
            place, is_start = end, False
            continue
        match = _NAME.match(query, place) if is_start and names_allowed[-1] else None
        if match is not None:
            place = _take_name(query, match, out)
            is_start = place < len(query) and query[place - 1] == ":" and query[place] == "("
            if is_start:
                names_allowed.append(False)
                out.append("(")
                place += 1
            continue
        if char == "\\":
            out.append(query[place : place + 2])
            place, is_start = place + 2, False
            continue
        _refuse_symbols(query, place, is_start=is_start)
        if char == "(":
            names_allowed.append(names_allowed[-1])
        elif char == ")" and len(names_allowed) > 1:
            names_allowed.pop()
        if len(names_allowed) > DEPTH_MAX:
            raise UntranslatableFilter(f"parentheses deeper than {DEPTH_MAX}: write it flatter")
        is_start = char.isspace() or char in "(+-"
        out.append(char)
        place += 1
    return "".join(out)


def _take_name(query: str, match: re.Match[str], out: list[str]) -> int:
    """Copy a word at the start of a clause; a `=` just after it becomes `:`."""
    place = match.end()
    out.append(match[0])
    if query.startswith("=", place):
        if query.startswith("==", place):
            raise UntranslatableFilter(f"'==' is no operator: write {match[0]}:VALUE")
        out.append(":")
        return place + 1
    if query.startswith(":", place):
        out.append(":")
        return place + 1
    if query.startswith((">", "<"), place):
        raise UntranslatableFilter(
            f"a comparison needs a colon: write {match[0]}:{query[place]}VALUE"
        )
    return place


def _closing_quote(query: str, place: int) -> int:
    end = place + 1
    while end < len(query) and query[end] != '"':
        end += 2 if query[end] == "\\" else 1
    if end >= len(query):
        raise UntranslatableFilter('a quote is not closed: write "…", and \\" for a quote inside')
    return end + 1


def _refuse_symbols(query: str, place: int, *, is_start: bool) -> None:
    if query.startswith("&&", place):
        raise UntranslatableFilter("'&&' is not taken: write AND")
    if query.startswith("||", place) and (is_start or not _is_date_math(query, place)):
        raise UntranslatableFilter("'||' is not taken: write OR")
    if query[place] == "!" and is_start:
        raise UntranslatableFilter("'!' is not taken: write NOT")


def _is_date_math(query: str, place: int) -> bool:
    return bool(re.match(r"\|\|[+\-/]", query[place : place + 3])) and query[place - 1].isdigit()


@final
class QueryString:
    """One reading of a query string; `terms` types the values and holds the limits."""

    def __init__(self, terms: Terms, default_field: str | None, default_operator: str) -> None:
        self._terms = terms
        self._default_field = default_field
        self._is_and_default = default_operator == "AND"

    def read(self, query: str) -> Condition:
        """Translate; raise UntranslatableFilter when the meaning cannot be kept."""
        self._terms.check_length(query)
        if query.strip() in {"", "*"}:
            return Everything()
        colons = with_colons(query)
        try:
            tree = parse(colons)
        except (ParseError, RecursionError, ValueError) as error:
            raise UntranslatableFilter(
                f"cannot read the query: {error} Put a value with special characters in quotes"
            ) from error
        return self._condition(tree, self._default_field, 0)

    def _condition(self, node: nodes.Item, field: str | None, depth: int) -> Condition:
        if depth > DEPTH_MAX:
            raise UntranslatableFilter(f"nested deeper than {DEPTH_MAX}: write it flatter")
        if isinstance(node, nodes.UnknownOperation) and field is not None:
            whole = self._one_term(node, field)
            if whole is not None:
                return whole
        if isinstance(node, nodes.BaseOperation | nodes.Not | nodes.Prohibit | nodes.Plus):
            return self._clauses(node, field, depth)
        if isinstance(node, nodes.BaseGroup | nodes.Boost):
            return self._condition(node.expr, field, depth + 1)
        if isinstance(node, nodes.SearchField):
            return self._search_field(node, depth)
        return self._leaf(node, field)

    def _search_field(self, node: nodes.SearchField, depth: int) -> Condition:
        name = _unescape(node.name)
        if name == "*" and str(node.expr).strip() == "*":
            return Everything()
        if "*" in name or "?" in name:
            raise UntranslatableFilter(
                f"a pattern of field names ({name}) is not taken: name each field, joined by OR"
            )
        if name == "_exists_":
            if not isinstance(node.expr, nodes.Word | nodes.Phrase):
                raise UntranslatableFilter("write _exists_:FIELD for each field")
            return self._terms.exists(_text(node.expr))
        if isinstance(node.expr, nodes.SearchField):
            raise UntranslatableFilter(
                f'a value with a colon needs quotes: write {name}:"{node.expr.name}:…"'
            )
        if isinstance(node.expr, nodes.Not | nodes.Prohibit | nodes.Plus):
            raise UntranslatableFilter(
                f'write -{name}:VALUE to leave values out, or {name}:"-5" for a negative number'
            )
        return self._condition(node.expr, name, depth + 1)

    def _one_term(self, node: nodes.UnknownOperation, field: str) -> Condition | None:
        """Read words side by side in a field's group: on a keyword they are one term."""
        flat = _operands(node)
        is_word = [isinstance(x, nodes.Word) and not _has_wildcard(x.value) for _, x in flat]
        if all(is_word) and not any(operator for operator, _ in flat):
            if field_type(field) is not FieldType.KEYWORD:
                raise UntranslatableFilter(f"{field}: put OR between the values")
            return self._terms.equal(field, " ".join(_text(x) for _, x in flat))
        for i in range(1, len(flat)):
            if not flat[i][0] and is_word[i - 1] and is_word[i]:
                raise UntranslatableFilter(
                    f'{field}: put AND or OR between the words, or quotes around "{flat[i - 1][1]} {flat[i][1]}"'
                )
        return None

    def _clauses(self, node: nodes.Item, field: str | None, depth: int) -> Condition:
        """Make must, should and must-not clauses from left to right, as Lucene's classic parser."""
        must: list[tuple[str, nodes.Item]] = []
        for operator, operand in _operands(node):
            if must and must[-1][0] != "not":
                if operator == "AND":
                    must[-1] = ("must", must[-1][1])
                elif operator == "OR" and self._is_and_default:
                    must[-1] = ("should", must[-1][1])
            if isinstance(operand, nodes.Not | nodes.Prohibit):
                must.append(("not", operand.a))
            elif isinstance(operand, nodes.Plus):
                # With AND as the default, "+" says no more than the default does.
                role = "should" if self._is_and_default and operator == "OR" else "must"
                must.append((role, operand.a))
            elif self._is_and_default:
                must.append(("should" if operator == "OR" else "must", operand))
            else:
                must.append(("must" if operator == "AND" else "should", operand))
        return self._joined(
            [(role, self._condition(operand, field, depth + 1)) for role, operand in must]
        )

    @staticmethod
    def _joined(clauses: Sequence[tuple[str, Condition]]) -> Condition:
        every = [condition for role, condition in clauses if role == "must"]
        some = tuple(condition for role, condition in clauses if role == "should")
        if not every and some:
            every.append(any_of(some))
        every.extend(Not(condition) for role, condition in clauses if role == "not")
        return every[0] if len(every) == 1 else AllOf(tuple(every))

    def _leaf(self, node: nodes.Item, field: str | None) -> Condition:
        if isinstance(node, nodes.Word) and node.value == "*" and field is None:
            return Everything()
        _refuse_leaf(node, field)
        if field is None:
            raise UntranslatableFilter(
                f"a word without a field ({node}): write FIELD:{node}, for example VOName:{node} or vo:{node}"
                if node.__class__ is nodes.Word and node.value not in {"and", "or", "not"}
                else f"a word without a field ({node}): write FIELD:VALUE, and AND, OR, NOT in capitals"
            )
        if isinstance(node, nodes.From | nodes.To):
            side = ">" if isinstance(node, nodes.From) else "<"
            operator = side + ("=" if node.include else "")
            return self._terms.between(field, {operator: _text(node.a)})
        if isinstance(node, nodes.Range):
            bounds = {}
            if str(node.low).strip() != "*":
                bounds[">=" if node.include_low else ">"] = _text(node.low)
            if str(node.high).strip() != "*":
                bounds["<=" if node.include_high else "<"] = _text(node.high)
            return self._terms.between(field, bounds)
        if isinstance(node, nodes.Word) and _has_wildcard(node.value):
            if node.value == "*":
                return self._terms.exists(field)
            return self._terms.like(field, pattern_parts(node.value))
        return self._terms.equal(field, _text(node))


def pattern_parts(pattern: str) -> tuple[tuple[bool, str], ...]:
    r"""Split a pattern at its `*` and `?`; `\*` is a plain asterisk."""
    parts: list[tuple[bool, str]] = []
    for match in _PATTERN_PARTS.finditer(pattern):
        if match[3]:
            parts.append((True, match[3]))
            continue
        text = chr(int(match[1], 16)) if match[1] else match[2] or match[4]
        if parts and not parts[-1][0]:
            text = parts.pop()[1] + text
        parts.append((False, text))
    return tuple(parts)


def _refuse_leaf(node: nodes.Item, field: str | None) -> None:
    name = field or "FIELD"
    if isinstance(node, nodes.Fuzzy | nodes.Proximity):
        raise UntranslatableFilter(
            f"fuzzy and proximity search ({node}) is not taken: write the exact value, or a pattern such as {name}:cms*"
        )
    if isinstance(node, nodes.Regex):
        raise UntranslatableFilter(
            f'a regular expression ({node}) is not taken: write a pattern such as {name}:*cms*, or quotes around a value that begins with a slash, {name}:"/cms/…"'
        )
    if not isinstance(node, nodes.Word | nodes.Phrase | nodes.Range | nodes.From | nodes.To):
        raise UntranslatableFilter(f"{node} is not taken: write FIELD:VALUE")


def _operands(node: nodes.Item) -> list[tuple[str, nodes.Item]]:
    """Give the operands from left to right, each with the operator before it.

    luqum nests by precedence; only parentheses make a node of their own here.
    """
    operator = _OPERATIONS.get(type(node))
    if operator is None:
        return [("", node)]
    flat: list[tuple[str, nodes.Item]] = []
    for i, child in enumerate(node.children):
        inner = _operands(child)
        if i:
            inner[0] = (operator, inner[0][1])
        flat.extend(inner)
    return flat


def _has_wildcard(text: str) -> bool:
    return any(is_wildcard for is_wildcard, _ in pattern_parts(text))


def _text(node: nodes.Item) -> str:
    value: str = node.value[1:-1] if isinstance(node, nodes.Phrase) else str(node.value)
    return _unescape(value)


def _unescape(text: str) -> str:
    return _UNESCAPE.sub(lambda match: chr(int(match[1], 16)) if match[1] else match[2], text)
