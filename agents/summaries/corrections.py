"""Corrections of summary rows: other names for VOs and projects, sites from host names.

Read from a TOML file of the site (`corrections.toml` in the summary agent's folder), applied to
each finished row.  Each correction keeps the old value under `Raw` + the field's name.

Invariants: a row's id does not depend on the corrections (agents/dimensions.py hashes the raw
values), so a correction never makes two rows one; without a file every row still carries its
Raw fields.  Registry data (projects, sites) is not looked up here: it will be one more callable
in the `Correct` chain.
Source: gracc-request corrections `vo`, `project`, `host_description_regex`.
Tests: tests/unit/agents/test_summary_rows.py
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Callable
from typing import Final, TypeAlias, final

Row: TypeAlias = dict[str, object]
Correct: TypeAlias = Callable[[Row], None]

NO_PROJECT: Final = frozenset({"", "n/a", "unknown"})
HOST_RULES_MAX: Final = 10_000


class CorrectionError(ValueError):
    """The corrections file says something that cannot be used; the text names the entry."""


@final
class Corrections:
    """The tables of one corrections file, and what they do to a row."""

    def __init__(
        self,
        vo_names: dict[tuple[str, str], str] | None = None,
        project_names: dict[str, str] | None = None,
        host_sites: list[tuple[re.Pattern[str], str]] | None = None,
        digest: str = "none",
    ) -> None:
        self._vo_names = vo_names or {}
        self._project_names = project_names or {}
        self._host_sites = host_sites or []
        self.digest = digest

    @classmethod
    def parse(cls, text: str) -> Corrections:
        """Read a corrections file; CorrectionError names the first entry that is wrong."""
        try:
            tables = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise CorrectionError(f"not TOML: {error}") from error
        unknown = sorted(set(tables) - {"vo", "project", "host"})
        if unknown:
            raise CorrectionError(f"unknown table {unknown[0]!r}; allowed: vo, project, host")
        vo_names = {
            (_text(entry, "vo", "VOName"), _text(entry, "vo", "ReportableVOName")): _text(
                entry, "vo", "to"
            )
            for entry in _entries(tables, "vo")
        }
        project_names = {
            _text(entry, "project", "ProjectName"): _text(entry, "project", "to")
            for entry in _entries(tables, "project")
        }
        host_sites: list[tuple[re.Pattern[str], str]] = []
        for entry in _entries(tables, "host"):
            pattern = _text(entry, "host", "regex")
            try:
                host_sites.append((re.compile(pattern), _text(entry, "host", "to")))
            except re.error as error:
                raise CorrectionError(f"[[host]] regex {pattern!r}: {error}") from error
        if len(host_sites) > HOST_RULES_MAX:
            raise CorrectionError(f"more than {HOST_RULES_MAX} [[host]] entries")
        digest = hashlib.sha256(text.encode()).hexdigest()
        return cls(vo_names, project_names, host_sites, digest)

    def apply(self, row: Row) -> None:
        """Correct one row in place; called once per row, after its sums are final."""
        raw_vo = str(row.get("VOName", ""))
        row["RawVOName"] = raw_vo
        row["VOName"] = self._vo_names.get((raw_vo, str(row.get("ReportableVOName", ""))), raw_vo)
        raw_project = str(row.get("ProjectName", ""))
        row["RawProjectName"] = raw_project
        row["ProjectName"] = self._project_names.get(raw_project, raw_project)
        row["RawOIM_Site"] = str(row.get("OIM_Site", ""))
        host = str(row.get("Host_description", ""))
        for pattern, site in self._host_sites:
            if pattern.search(host):
                row["OIM_Site"] = site
                break
        if str(row["ProjectName"]).casefold() in NO_PROJECT:
            row["ProjectName"] = row["VOName"]


def _entries(tables: dict[str, object], name: str) -> list[dict[str, object]]:
    found = tables.get(name, [])
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise CorrectionError(f"{name} must be written as [[{name}]] entries")
    return found


def _text(entry: dict[str, object], table: str, key: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str):
        raise CorrectionError(f"[[{table}]] entry {entry!r}: {key} is missing or not a text")
    return value
