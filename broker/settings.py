"""Read one TOML file into typed sections, and tell where each value came from.

What a key takes is declared with `broker.setting_types`; here are the file, its lines, and the environment's overrides.  Nothing
is ignored: an unknown key, a wrong type or a value out of range is a `ConfigError` that names file, line, key
and what is allowed.  Imports nothing of the rooms, so the agents may use it too.
Tests: tests/unit/broker/test_settings.py.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, final, get_args

import msgspec

from broker.errors import ConfigError
from broker.setting_types import (
    allowed_text,
    bare_type,
    convert,
    hints_of,
    is_secret_key,
    is_section,
    is_table,
    shown_text,
    typed,
)

ENVIRONMENT_PREFIX = "GRIDMSG_"
FILE_BYTES_MAX = 1 << 20

S = TypeVar("S", bound=msgspec.Struct)


@final
class Value:
    """An effective value: its dotted key, the value as read, and where it came from."""

    __slots__ = ("is_secret", "key", "origin", "value")

    def __init__(self, key: str, value: object, origin: str, is_secret: bool) -> None:
        self.key = key
        self.value = value
        self.origin = origin
        self.is_secret = is_secret

    def shown(self) -> str:
        """The value as text, or dots if it is a secret."""
        return "…" if self.is_secret and self.value else shown_text(self.value)


@final
class Document:
    """One configuration file with the environment's overrides on top.

    Sections are read with `section` and `rows`; `refuse_rest` then refuses what nobody asked for.
    """

    def __init__(
        self, text: str = "", path: str = "", environment: Mapping[str, str] | None = None
    ) -> None:
        self.path = path
        try:
            self._tables: dict[str, Any] = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(_syntax_text(path, error)) from None
        self._lines = _find_lines(text)
        self._environment = _split_environment(environment or {})
        self._asked: set[str] = set()
        self.values: dict[str, Value] = {}

    @classmethod
    def load(cls, path: Path | None, environment: Mapping[str, str] | None = None) -> Document:
        """Read a file (None: nothing but defaults and environment); raises ConfigError."""
        if path is None:
            return cls("", "", environment)
        try:
            with path.open("rb") as stream:
                raw = stream.read(FILE_BYTES_MAX + 1)
        except OSError as error:
            raise ConfigError(
                f"{path}: {error.strerror}: name a readable file with --config"
            ) from None
        if len(raw) > FILE_BYTES_MAX:
            raise ConfigError(f"{path}: larger than 1 MiB: this is no configuration file")
        try:
            return cls(raw.decode("utf-8"), str(path), environment)
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}: not UTF-8 at byte {error.start}") from None

    def section(self, name: str, kind: type[S]) -> S:
        """The table `[name]`, defaults where it says nothing; raises ConfigError."""
        self._asked.add(name)
        if name in self._environment:
            self._tables.setdefault(name, {})
        raw = self._tables.get(name, {})
        if isinstance(raw, list):
            raise self._error((name,), f"write [{name}] once, not [[{name}]]")
        if not isinstance(raw, dict):
            raise self._error((name,), f"must be a table: write [{name}]")
        return self._read((name,), kind, raw, self._environment.get(name, {}))

    def rows(self, name: str, kind: type[S]) -> list[S]:
        """The tables `[[name]]` in order, empty if there are none; raises ConfigError."""
        self._asked.add(name)
        raw = self._tables.get(name, [])
        if not isinstance(raw, list) or not all(isinstance(row, dict) for row in raw):
            raise self._error((name,), f"is a list of tables: write [[{name}]]")
        overrides = self._environment.get(name, {})
        wanted = len(raw)
        for index in overrides:
            if not index.isdigit() or int(index) > len(raw):
                variable = ENVIRONMENT_PREFIX + f"{name}__{index}".upper().replace("-", "_")
                raise ConfigError(
                    f"environment: {variable}__…: row 0 to {len(raw)} expected after {name.upper()}__"
                )
            wanted = max(wanted, int(index) + 1)
        if wanted > len(raw):
            raw.append({})
            self._tables[name] = raw
        return [
            self._read((name, index), kind, row, overrides.get(str(index), {}))
            for index, row in enumerate(raw)
        ]

    def tables(self, *names: str) -> dict[str, Any]:
        """Those of the named tables that are there, unshaped, with the environment's overrides (as texts if not read yet)."""
        found: dict[str, Any] = {}
        for name in names:
            if name in self._asked or name not in self._environment:
                if name in self._tables:
                    found[name] = self._tables[name]
            else:
                found[name] = _merged(self._tables.get(name), self._environment[name])
        return found

    def has(self, name: str) -> bool:
        """Whether file or environment say anything about the section."""
        return name in self._tables or name in self._environment

    def line(self, *path: str | int) -> int | None:
        """The line of a key (or of the nearest table around it), from 1 on; None if it is not in the file."""
        while path:
            if path in self._lines:
                return self._lines[path]
            path = path[:-1]
        return None

    def refuse(self, name: str, why: str) -> None:
        """Refuse the section with words if it is there at all."""
        self._asked.add(name)
        if self.has(name):
            raise self._error((name,), why)

    def refuse_rest(self, known: tuple[str, ...]) -> None:
        """Refuse every section that was neither read nor is `known` to another reader."""
        allowed = sorted(self._asked | set(known))
        for name in (*self._tables, *self._environment):
            if name not in allowed:
                raise self._error((name,), f"unknown section{_guess(name, allowed)}")

    # -- reading one table ---------------------------------------------------------------------

    def _read(
        self,
        path: tuple[str | int, ...],
        kind: type[S],
        raw: dict[str, Any],
        overrides: dict[str, Any],
    ) -> S:
        declared = {field.encode_name: field for field in msgspec.structs.fields(kind)}
        hints = hints_of(kind)
        for key in (*raw, *overrides):
            if key not in declared:
                text = f"unknown key{_guess(key, list(declared))}"
                if key in raw:
                    raise self._error((*path, key), text)
                raise ConfigError(f"environment: {_variable((*path, key))}: {text}")
        chosen: dict[str, Any] = {}
        for key in overrides:
            if is_table(hints[declared[key].name]):
                raw.setdefault(key, {})
        for key, field in declared.items():
            hint = hints[field.name]
            if key in raw or key in overrides:
                value = self._value((*path, key), hint, raw.get(key), overrides.get(key))
                chosen[field.name] = value
                if key in overrides and not is_table(hint):
                    raw[key] = _plain(value)
            elif field.default is msgspec.NODEFAULT and field.default_factory is msgspec.NODEFAULT:
                raise self._error((*path, key), f"is missing: {allowed_text(hint)} expected")
        section = kind(**chosen)
        for key, field in declared.items():
            dotted = _dotted((*path, key))
            if dotted not in self.values and not isinstance(
                getattr(section, field.name), (msgspec.Struct, dict)
            ):
                is_secret = is_secret_key(key, hints[field.name])
                value = getattr(section, field.name)
                self.values[dotted] = Value(dotted, value, "default", is_secret)
        return section

    def _value(self, path: tuple[str | int, ...], hint: Any, raw: Any, override: Any) -> object:
        bare = bare_type(hint)
        if is_section(bare):
            if raw is not None and not isinstance(raw, dict):
                raise self._error(path, "must be a table")
            if override is not None and not isinstance(override, dict):
                raise ConfigError(f"environment: {_variable(path)}: name a key inside it")
            return self._read(path, bare, raw or {}, override or {})
        if is_table(bare):
            if raw is not None and not isinstance(raw, dict):
                raise self._error(path, "must be a table of tables")
            inner = get_args(bare)[1]
            raw = raw if raw is not None else {}
            for name in override or {}:
                raw.setdefault(name, {})
            names = list(raw)
            return {
                name: self._value((*path, name), inner, raw[name], (override or {}).get(name))
                for name in names
            }
        if override is not None:
            value, origin = typed(override, hint), f"environment {_variable(path)}"
        else:
            value, origin = raw, f"{self.path or 'configuration'}:{self.line(*path)}"
        try:
            converted = convert(value, hint)
        except (ValueError, msgspec.ValidationError):
            is_secret = is_secret_key(str(path[-1]), hint)
            text = f"{'this value' if is_secret else shown_text(value)} is not allowed: {allowed_text(hint)} expected"
            if override is not None:
                raise ConfigError(f"environment: {_variable(path)}: {text}") from None
            raise self._error(path, text) from None
        dotted = _dotted(path)
        is_secret = is_secret_key(str(path[-1]), hint)
        self.values[dotted] = Value(dotted, converted, origin, is_secret)
        return converted

    def _error(self, path: tuple[str | int, ...], text: str) -> ConfigError:
        line = self.line(*path)
        if line is None and path and isinstance(path[0], str) and path[0] not in self._tables:
            where = f"environment: {_variable(path)}" if self._environment.get(path[0]) else ""
            if where:
                return ConfigError(f"{where}: {text}")
        place = self.path or "configuration"
        if line is not None:
            place += f":{line}"
        return ConfigError(f"{place}: {_dotted(path)}: {text}")

    def error(self, path: tuple[str | int, ...], text: str) -> ConfigError:
        """A ConfigError for a key whose value fits its type but not the rest of the configuration."""
        return self._error(path, text)


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value


def _dotted(path: tuple[str | int, ...]) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else ("." if text else "") + part
    return text


def _variable(path: tuple[str | int, ...]) -> str:
    return ENVIRONMENT_PREFIX + "__".join(str(part).upper().replace("-", "_") for part in path)


def _guess(wrong: str, allowed: list[str]) -> str:
    near = get_close_matches(wrong, allowed, 1)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; allowed: {', '.join(allowed)}"


def _syntax_text(path: str, error: tomllib.TOMLDecodeError) -> str:
    text = str(error)
    matched = re.search(r"\(at line (\d+), column (\d+)\)", text)
    where = f"{path or 'configuration'}:{matched[1]}" if matched else (path or "configuration")
    return f"{where}: not TOML: {text}"


def _split_environment(environment: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """`GRIDMSG_STORE__SYNC=x` as {"store": {"sync": "x"}}; names without `__` belong to the command line."""
    tables: dict[str, dict[str, Any]] = {}
    for name, text in environment.items():
        if not name.startswith(ENVIRONMENT_PREFIX) or "__" not in name:
            continue
        parts = [
            part.lower().replace("_", "-")
            for part in name.removeprefix(ENVIRONMENT_PREFIX).split("__")
        ]
        table: dict[str, Any] = tables
        for part in parts[:-1]:
            below = table.setdefault(part, {})
            if not isinstance(below, dict):
                raise ConfigError(f"environment: {name}: another variable sets {part} as a whole")
            table = below
        table[parts[-1]] = text
    return tables


def _merged(raw: Any, overrides: Any) -> Any:
    """A copy of a raw table (or list of them) with override texts in it."""
    if not isinstance(overrides, dict):
        return overrides
    if isinstance(raw, list) or (raw is None and overrides and all(map(str.isdigit, overrides))):
        rows = list(raw or [])
        for index, below in sorted(overrides.items()):
            if index.isdigit() and int(index) < len(rows):
                rows[int(index)] = _merged(rows[int(index)], below)
            elif index.isdigit() and int(index) == len(rows):
                rows.append(_merged({}, below))
        return rows
    table = dict(raw) if isinstance(raw, dict) else {}
    for key, below in overrides.items():
        table[key] = _merged(table.get(key), below)
    return table


_HEADER = re.compile(r"\s*(\[\[?)\s*([^\]]+?)\s*\]\]?\s*(?:#.*)?\Z")
_KEY = re.compile(
    r"""\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*="""
)
_PART = re.compile(r"""[A-Za-z0-9_-]+|"[^"]*"|'[^']*'""")


def _find_lines(text: str) -> dict[tuple[str | int, ...], int]:
    """Where each table and key stands.  The text is known to be good TOML."""
    lines: dict[tuple[str | int, ...], int] = {}
    counts: dict[str, int] = {}
    table: tuple[str | int, ...] = ()
    open_quotes = ""
    for number, line in enumerate(text.splitlines(), 1):
        if open_quotes:
            if open_quotes in line:
                open_quotes = ""
            continue
        header = _HEADER.match(line)
        if header is not None and "=" not in line.split("#")[0]:
            parts = [part.strip("\"'") for part in _PART.findall(header[2])]
            if header[1] == "[[":
                counts[parts[0]] = counts.get(parts[0], -1) + 1
            table = tuple(parts)
            if parts[0] in counts:
                table = (parts[0], counts[parts[0]], *parts[1:])
            lines.setdefault(table, number)
            lines.setdefault(table[:1], number)
            continue
        key = _KEY.match(line)
        if key is not None:
            parts = [part.strip("\"'") for part in _PART.findall(key[1])]
            for end in range(1, len(parts) + 1):
                lines.setdefault((*table, *parts[:end]), number)
        for quotes in ('"""', "'''"):
            if line.count(quotes) % 2:
                open_quotes = quotes
    return lines
