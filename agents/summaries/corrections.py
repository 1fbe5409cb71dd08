"""Corrections of summary rows: other names for VOs and projects, sites from host names.

Each correction of the settings looks a row up in a table by some of its fields and writes one
field; the old value stays under `Raw` + that field's name ('' if it had none).

Invariants: a row's id does not depend on the corrections (agents/dimensions.py hashes the raw
values), so a correction never makes two rows one; every row carries the Raw fields that its id
needs, even where nothing is configured.  Registry data (projects, sites) is not looked up here:
it will be one more callable of the type `Correct`.
Source: gracc-request corrections `vo`, `project`, `host_description_regex`.
Tests: tests/unit/agents/test_summary_corrections.py
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeAlias, final

from agents.config import CorrectionSettings
from agents.dimensions import RAW_PREFIX
from agents.errors import SettingsError

Row: TypeAlias = dict[str, object]
Correct: TypeAlias = Callable[[Row], None]

NO_PROJECT: Final = frozenset({"", "n/a", "unknown"})
ALWAYS_RAW: Final = ("VOName", "ProjectName", "OIM_Site")
ENTRIES_MAX: Final = 100_000


@final
class Correction:
    """One table: the first entry whose match fields equal (or, as patterns, match) the row's."""

    def __init__(
        self, settings: CorrectionSettings, entries: Sequence[object], origin: str
    ) -> None:
        if not settings.match_fields:
            raise SettingsError(f"{origin}: match-fields is empty")
        if len(entries) > ENTRIES_MAX:
            raise SettingsError(f"{origin}: {len(entries)} entries; at most {ENTRIES_MAX}")
        self.written_field = settings.dest_field
        self._match_fields = settings.match_fields
        self._exact: dict[tuple[str, ...], str] = {}
        self._patterns: list[tuple[tuple[re.Pattern[str], ...], str]] = []
        for number, entry in enumerate(entries, 1):
            where = f"{origin}: entry {number}"
            keys = tuple([_text(entry, name, where) for name in self._match_fields])
            target = _text(entry, settings.source_field, where)
            if not settings.regex:
                self._exact.setdefault(keys, target)
                continue
            try:
                self._patterns.append((tuple([re.compile(key) for key in keys]), target))
            except re.error as error:
                raise SettingsError(f"{where}: {error} in a pattern of {keys}") from error

    def value_for(self, row: Row) -> str | None:
        """Give what the row's field is corrected to; None when no entry matches."""
        values = tuple([str(row.get(name, "")) for name in self._match_fields])
        found = self._exact.get(values)
        if found is not None:
            return found
        for patterns, target in self._patterns:
            if all(p.search(v) for p, v in zip(patterns, values, strict=True)):
                return target
        return None


@final
class Corrections:
    """All corrections of a site, in order, and the rule for missing projects."""

    def __init__(self, corrections: Sequence[Correction] = (), digest: str = "") -> None:
        self._corrections = corrections
        self.digest = digest

    @classmethod
    def load(cls, settings: Sequence[CorrectionSettings], folder: Path) -> Corrections:
        """Read the tables of the settings; SettingsError names file and entry."""
        seen = hashlib.sha256()
        corrections: list[Correction] = []
        for each in settings:
            path = folder / each.table
            try:
                text = path.read_text(encoding="utf-8")
                entries = json.loads(text)
            except (OSError, ValueError, RecursionError) as error:
                raise SettingsError(f"{path}: {error}") from error
            if not isinstance(entries, list):
                raise SettingsError(f"{path}: must be a JSON list of objects")
            corrections.append(Correction(each, entries, str(path)))
            seen.update(repr(each).encode() + text.encode())
        return cls(corrections, seen.hexdigest() if corrections else "")

    def apply(self, row: Row) -> None:
        """Correct one row in place; called once per row, after its sums are final."""
        for name in ALWAYS_RAW:
            row[RAW_PREFIX + name] = row.get(name, "")
        for correction in self._corrections:
            name = correction.written_field
            row.setdefault(RAW_PREFIX + name, row.get(name, ""))
            value = correction.value_for(row)
            if value is not None:
                row[name] = value
        if str(row.get("ProjectName", "")).casefold() in NO_PROJECT:
            row["ProjectName"] = row["VOName"]


def _text(entry: object, name: str, where: str) -> str:
    if not isinstance(entry, dict):
        raise SettingsError(f"{where}: not an object")
    value = entry.get(name)
    if not isinstance(value, str):
        raise SettingsError(f"{where}: {name} is missing or not a text")
    return value
