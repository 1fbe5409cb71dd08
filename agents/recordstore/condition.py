"""What a filter means, free of any language: a small tree of conditions on a record's fields.

`filter` and `lucene` build it, `sql` turns it into a WHERE; an Elasticsearch store turns the
same tree into its query language, so both stores mean the same thing by the same filter.

Invariants: nodes are never changed after they are made; values are typed already (numbers for
number fields, milliseconds for dates), so whoever reads the tree refuses nothing.
Three-valued logic is left out on purpose: a condition on a missing field is false, and Not of it is true.
Tests: tests/unit/agents/recordstore/test_filter.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias, final

Scalar: TypeAlias = str | int | float | bool


@final
@dataclass(frozen=True, slots=True)
class Everything:
    """True for every record."""


@final
@dataclass(frozen=True, slots=True)
class Nothing:
    """False for every record (an unknown field, an empty list of terms)."""


@final
@dataclass(frozen=True, slots=True)
class OneOf:
    """The field has one of these values; `ignores_case` (ASCII) is for keywords only."""

    field: str
    values: tuple[Scalar, ...]
    ignores_case: bool = False


@final
@dataclass(frozen=True, slots=True)
class Like:
    """The keyword field matches the pattern: parts are literal text, or "*" and "?" as wildcards.

    `parts` alternates (is_wildcard, text); the whole value must match.
    """

    field: str
    parts: tuple[tuple[bool, str], ...]
    ignores_case: bool = False


@final
@dataclass(frozen=True, slots=True)
class FirstPathPart:
    """The keyword field is a path (`/cms/Role=…`) whose first part matches, without case."""

    field: str
    parts: tuple[tuple[bool, str], ...]


@final
@dataclass(frozen=True, slots=True)
class Between:
    """The field lies in a range; None leaves a side open."""

    field: str
    low: Scalar | None = None
    high: Scalar | None = None
    includes_low: bool = True
    includes_high: bool = True


@final
@dataclass(frozen=True, slots=True)
class Exists:
    """The field has a value that can be searched."""

    field: str


@final
@dataclass(frozen=True, slots=True)
class Not:
    """The inner condition is not true."""

    inner: Condition


@final
@dataclass(frozen=True, slots=True)
class AllOf:
    """Every inner condition is true."""

    inner: tuple[Condition, ...]


@final
@dataclass(frozen=True, slots=True)
class AtLeast:
    """So many of the inner conditions are true."""

    minimum: int
    inner: tuple[Condition, ...]


Condition: TypeAlias = (
    Everything | Nothing | OneOf | Like | FirstPathPart | Between | Exists | Not | AllOf | AtLeast
)


def any_of(inner: tuple[Condition, ...]) -> Condition:
    """Join conditions of which one must be true."""
    return inner[0] if len(inner) == 1 else AtLeast(1, inner)
