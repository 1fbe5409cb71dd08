"""Read one TOML file into typed sections, and tell where each value came from.

A section is a subclass of `Section` (a frozen msgspec Struct): its annotations are the one declaration of a
key, with type, default, unit and help; file, environment, `broker check` and docs are derived from it.  Nothing
is ignored: an unknown key, a wrong type or a value out of range is a `ConfigError` that names file, line, key
and what is allowed.  Imports only `broker.errors`, so the agents may use it too.
Tests: tests/unit/broker/test_settings.py.
"""

from __future__ import annotations

import re
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, final, get_args, get_origin

import msgspec
from msgspec import Meta

from broker.errors import ConfigError

ENVIRONMENT_PREFIX = "GRIDMSG_"
FILE_BYTES_MAX = 1 << 20

Size = Annotated[int, Meta(ge=0, extra={"unit": "bytes"})]
"""A number of bytes, or a text such as "64MiB"."""

Duration = Annotated[float, Meta(ge=0, extra={"unit": "seconds"})]
"""A number of seconds, or a text such as "250ms", "5s", "10min"."""

Port = Annotated[int, Meta(ge=0, le=65535)]
Count = Annotated[int, Meta(ge=1)]
Secret = Annotated[str, Meta(extra={"secret": True})]
"""A text that `broker check` and logs never show."""


class Section(
    msgspec.Struct, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True
):
    """Base of all sections: keys are the field names in kebab-case.

    A subclass says `frozen=True, kw_only=True` again.  Help goes into the annotation: `Annotated[Size, Meta(description="…")]`.
    """


S = TypeVar("S", bound=msgspec.Struct)

_SECRET_KEYS = frozenset({"password", "passcode", "api-key", "token"})

_SIZE_UNITS = {
    "": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40,
}  # fmt: skip
_TIME_UNITS = {
    "": 1.0, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0,
}  # fmt: skip
_QUANTITY = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*\Z")


def parse_size(text: str) -> int:
    """Return the bytes that a text such as "64MiB", "10 MB" or "4096" means; raises ValueError."""
    matched = _QUANTITY.match(text)
    if matched is None or matched[2].lower() not in _SIZE_UNITS:
        raise ValueError(text)
    return int(float(matched[1]) * _SIZE_UNITS[matched[2].lower()])


def parse_duration(text: str) -> float:
    """Return the seconds that a text such as "250ms", "5s" or "2h" means; raises ValueError."""
    matched = _QUANTITY.match(text)
    if matched is None or matched[2].lower() not in _TIME_UNITS:
        raise ValueError(text)
    return float(matched[1]) * _TIME_UNITS[matched[2].lower()]


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
        return "…" if self.is_secret and self.value else _shown(self.value)


@final
class Key:
    """One declared key, for documentation and its tests."""

    __slots__ = ("allowed", "default", "help", "name")

    def __init__(self, name: str, allowed: str, default: str, help_text: str) -> None:
        self.name = name
        self.allowed = allowed
        self.default = default
        self.help = help_text


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
        hints = _hints(kind)
        for key in (*raw, *overrides):
            if key not in declared:
                text = f"unknown key{_guess(key, list(declared))}"
                if key in raw:
                    raise self._error((*path, key), text)
                raise ConfigError(f"environment: {_variable((*path, key))}: {text}")
        chosen: dict[str, Any] = {}
        for key in overrides:
            if _is_table(hints[declared[key].name]):
                raw.setdefault(key, {})
        for key, field in declared.items():
            hint = hints[field.name]
            if key in raw or key in overrides:
                value = self._value((*path, key), hint, raw.get(key), overrides.get(key))
                chosen[field.name] = value
                if key in overrides and not _is_table(hint):
                    raw[key] = _plain(value)
            elif field.default is msgspec.NODEFAULT and field.default_factory is msgspec.NODEFAULT:
                raise self._error((*path, key), f"is missing: {_allowed(hint)} expected")
        section = kind(**chosen)
        for key, field in declared.items():
            dotted = _dotted((*path, key))
            if dotted not in self.values and not isinstance(
                getattr(section, field.name), (msgspec.Struct, dict)
            ):
                is_secret = _is_secret(key, hints[field.name])
                value = getattr(section, field.name)
                self.values[dotted] = Value(dotted, value, "default", is_secret)
        return section

    def _value(self, path: tuple[str | int, ...], hint: Any, raw: Any, override: Any) -> object:
        bare = _bare(hint)
        if _is_section(bare):
            if raw is not None and not isinstance(raw, dict):
                raise self._error(path, "must be a table")
            if override is not None and not isinstance(override, dict):
                raise ConfigError(f"environment: {_variable(path)}: name a key inside it")
            return self._read(path, bare, raw or {}, override or {})
        if _is_table(bare):
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
            value, origin = _typed(override, hint), f"environment {_variable(path)}"
        else:
            value, origin = raw, f"{self.path or 'configuration'}:{self.line(*path)}"
        try:
            converted = _convert(value, hint)
        except (ValueError, msgspec.ValidationError):
            is_secret = _is_secret(str(path[-1]), hint)
            text = f"{'this value' if is_secret else _shown(value)} is not allowed: {_allowed(hint)} expected"
            if override is not None:
                raise ConfigError(f"environment: {_variable(path)}: {text}") from None
            raise self._error(path, text) from None
        dotted = _dotted(path)
        is_secret = _is_secret(str(path[-1]), hint)
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


def declared_keys(kind: type[msgspec.Struct], prefix: str = "") -> Iterator[Key]:
    """Yield each key that a section declares, nested tables included (`users.NAME.password`)."""
    hints = _hints(kind)
    for field in msgspec.structs.fields(kind):
        hint = hints[field.name]
        bare = _bare(hint)
        name = prefix + field.encode_name
        if _is_section(bare):
            yield from declared_keys(bare, name + ".")
            continue
        if _is_table(bare):
            yield from declared_keys(_bare(get_args(bare)[1]), name + ".NAME.")
            continue
        if field.default is not msgspec.NODEFAULT:
            default = _quantity(field.default, hint)
        elif field.default_factory is not msgspec.NODEFAULT:
            default = _shown(field.default_factory())
        else:
            default = "required"
        yield Key(name, _allowed(hint), default, _description(hint))


# -- types ----------------------------------------------------------------------------------------


def _hints(kind: type[msgspec.Struct]) -> dict[str, Any]:
    return typing.get_type_hints(kind, include_extras=True)


def _metas(hint: Any) -> list[Meta]:
    return [meta for meta in getattr(hint, "__metadata__", ()) if isinstance(meta, Meta)]


def _extra(hint: Any) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for meta in _metas(hint):
        merged.update(meta.extra or {})
    return merged


def _is_secret(key: str, hint: Any) -> bool:
    return key in _SECRET_KEYS or bool(_extra(hint).get("secret"))


def _description(hint: Any) -> str:
    return next((meta.description for meta in reversed(_metas(hint)) if meta.description), "")


def _bare(hint: Any) -> Any:
    if hasattr(hint, "__metadata__"):
        hint = get_args(hint)[0]
    if get_origin(hint) in (typing.Union, types.UnionType):
        inner = [one for one in get_args(hint) if one is not type(None)]
        if len(inner) == 1:
            return _bare(inner[0])
    return hint


def _is_section(hint: Any) -> bool:
    bare = _bare(hint)
    return isinstance(bare, type) and issubclass(bare, msgspec.Struct)


def _is_table(hint: Any) -> bool:
    """Whether the key is a table with sections in it, or is one."""
    bare = _bare(hint)
    return _is_section(bare) or (get_origin(bare) is dict and _is_section(get_args(bare)[1]))


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value


def _inner(hint: Any) -> Any:
    """What is left of `X | None` without the None, with its metadata."""
    if get_origin(hint) in (typing.Union, types.UnionType):
        inner = [one for one in get_args(hint) if one is not type(None)]
        if len(inner) == 1:
            return inner[0]
    return hint


def _convert(value: object, hint: Any) -> object:
    unit = _extra(hint).get("unit") or _extra(_inner(hint)).get("unit")
    if unit is not None and isinstance(value, str):
        value = parse_size(value) if unit == "bytes" else parse_duration(value)
    if unit is not None and isinstance(value, bool):
        raise ValueError(value)
    if _bare(hint) is Path and isinstance(value, str):
        return Path(value)
    return msgspec.convert(value, _unified(hint))


def _unified(hint: Any) -> Any:
    """The hint with its bounds in one Meta, the outer ones in force: msgspec refuses the same bound twice."""
    metas = _metas(hint)
    if len(metas) < 2:
        return hint
    bounds: dict[str, Any] = {}
    for meta in metas:
        for name in ("gt", "ge", "lt", "le", "pattern", "min_length", "max_length"):
            if getattr(meta, name) is not None:
                bounds[name] = getattr(meta, name)
    return Annotated[get_args(hint)[0], Meta(**bounds)]


def _typed(text: object, hint: Any) -> object:
    """An environment variable's text as the value that the key's type wants."""
    if not isinstance(text, str):
        return text
    bare = _bare(hint)
    if bare in (str, Path) or get_origin(bare) is Literal or _extra(_inner(hint)).get("unit"):
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        if get_origin(bare) in (list, tuple):
            return [part.strip() for part in text.split(",")]
        return text


def _allowed(hint: Any) -> str:
    """What a key takes, in words."""
    hint = _inner(hint)
    unit = _extra(hint).get("unit")
    low = next((meta.ge for meta in reversed(_metas(hint)) if meta.ge is not None), None)
    high = next((meta.le for meta in reversed(_metas(hint)) if meta.le is not None), None)
    above = next((meta.gt for meta in reversed(_metas(hint)) if meta.gt is not None), None)
    limits = "" if above is None else f" above {above}"
    if low is not None and high is not None:
        limits = f" from {low} to {high}"
    elif low:
        limits = f" of at least {low}"
    bare = _bare(hint)
    if unit == "bytes":
        return 'a size such as "64MiB", or a number of bytes' + limits
    if unit == "seconds":
        return 'a time such as "250ms" or "5s", or a number of seconds' + limits
    if get_origin(bare) is Literal:
        return "one of " + ", ".join(_shown(one) for one in get_args(bare))
    names: dict[Any, str] = {
        bool: "true or false",
        int: "a whole number" + limits,
        float: "a number" + limits,
        str: "a text in quotes",
        Path: "a path in quotes",
    }
    if bare in names:
        return names[bare]
    if get_origin(bare) in (list, tuple):
        return f"a list, each item {_allowed(get_args(bare)[0])}"
    if get_origin(bare) is dict:
        return f"a table, each value {_allowed(get_args(bare)[1])}"
    return "another type"


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (str, Path)):
        return f'"{value}"'
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_shown(one) for one in value) + "]"
    if value is None:
        return "not set"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_shown(one)}" for key, one in value.items()) + "}"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _quantity(value: object, hint: Any) -> str:
    """A default as people write it: sizes and times with their unit."""
    unit = _extra(_inner(hint)).get("unit")
    if unit == "bytes" and isinstance(value, int) and value:
        for name, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
            if value % size == 0:
                return f'"{value // size}{name}"'
    if unit == "seconds" and isinstance(value, (int, float)) and value:
        return f'"{value:g}s"' if value >= 1 else f'"{value * 1000:g}ms"'
    return _shown(value)


# -- places ---------------------------------------------------------------------------------------


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
