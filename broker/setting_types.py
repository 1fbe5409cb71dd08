"""What a key of the configuration takes: sizes and times with their units, bounds, and the words for them.

A section is a subclass of `Section` (a frozen msgspec Struct): its annotations are the one declaration of a key, with type,
default, unit and help.  `broker.settings` reads files by them; docs are derived from them (`declared_keys`).
Tests: tests/unit/broker/test_settings.py.
"""

from __future__ import annotations

import re
import tomllib
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, final, get_args, get_origin

import msgspec
from msgspec import Meta

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


def hints_of(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """The annotations of a section, by field."""
    return typing.get_type_hints(kind, include_extras=True)


def _metas(hint: Any) -> list[Meta]:
    return [meta for meta in getattr(hint, "__metadata__", ()) if isinstance(meta, Meta)]


def _extra(hint: Any) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for meta in _metas(hint):
        merged.update(meta.extra or {})
    return merged


def is_secret_key(key: str, hint: Any) -> bool:
    """Whether a value is never shown: by its annotation, or by the name of its key."""
    return key in _SECRET_KEYS or bool(_extra(hint).get("secret"))


def _description(hint: Any) -> str:
    return next((meta.description for meta in reversed(_metas(hint)) if meta.description), "")


def bare_type(hint: Any) -> Any:
    """The type below annotations and `| None`."""
    if hasattr(hint, "__metadata__"):
        hint = get_args(hint)[0]
    if get_origin(hint) in (typing.Union, types.UnionType):
        inner = [one for one in get_args(hint) if one is not type(None)]
        if len(inner) == 1:
            return bare_type(inner[0])
    return hint


def is_section(hint: Any) -> bool:
    """Whether the key is a table of declared keys."""
    bare = bare_type(hint)
    return isinstance(bare, type) and issubclass(bare, msgspec.Struct)


def is_table(hint: Any) -> bool:
    """Whether the key is a table with sections in it, or is one."""
    bare = bare_type(hint)
    return is_section(bare) or (get_origin(bare) is dict and is_section(get_args(bare)[1]))


def _inner(hint: Any) -> Any:
    """What is left of `X | None` without the None, with its metadata."""
    if get_origin(hint) in (typing.Union, types.UnionType):
        inner = [one for one in get_args(hint) if one is not type(None)]
        if len(inner) == 1:
            return inner[0]
    return hint


def convert(value: object, hint: Any) -> object:
    """The value as the key's type wants it; raises ValueError, msgspec.ValidationError for what it does not allow."""
    unit = _extra(hint).get("unit") or _extra(_inner(hint)).get("unit")
    if unit is not None and isinstance(value, str):
        value = parse_size(value) if unit == "bytes" else parse_duration(value)
    if unit is not None and isinstance(value, bool):
        raise ValueError(value)
    if bare_type(hint) is Path and isinstance(value, str):
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


def typed(text: object, hint: Any) -> object:
    """An environment variable's text as the value that the key's type wants."""
    if not isinstance(text, str):
        return text
    bare = bare_type(hint)
    if bare in (str, Path) or get_origin(bare) is Literal or _extra(_inner(hint)).get("unit"):
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        if get_origin(bare) in (list, tuple):
            return [part.strip() for part in text.split(",")]
        return text


def allowed_text(hint: Any) -> str:
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
    bare = bare_type(hint)
    if unit == "bytes":
        return 'a size such as "64MiB", or a number of bytes' + limits
    if unit == "seconds":
        return 'a time such as "250ms" or "5s", or a number of seconds' + limits
    if get_origin(bare) is Literal:
        return "one of " + ", ".join(shown_text(one) for one in get_args(bare))
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
        return f"a list, each item {allowed_text(get_args(bare)[0])}"
    if get_origin(bare) is dict:
        return f"a table, each value {allowed_text(get_args(bare)[1])}"
    return "another type"


def shown_text(value: object) -> str:
    """A value as it is written in the file."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (str, Path)):
        return f'"{value}"'
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(shown_text(one) for one in value) + "]"
    if value is None:
        return "not set"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {shown_text(one)}" for key, one in value.items()) + "}"
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
    return shown_text(value)


@final
class Key:
    """One declared key, for documentation and its tests."""

    __slots__ = ("allowed", "default", "help", "name")

    def __init__(self, name: str, allowed: str, default: str, help_text: str) -> None:
        self.name = name
        self.allowed = allowed
        self.default = default
        self.help = help_text


def declared_keys(kind: type[msgspec.Struct], prefix: str = "") -> Iterator[Key]:
    """Yield each key that a section declares, nested tables included (`users.NAME.password`)."""
    hints = hints_of(kind)
    for field in msgspec.structs.fields(kind):
        hint = hints[field.name]
        bare = bare_type(hint)
        name = prefix + field.encode_name
        if is_section(bare):
            yield from declared_keys(bare, name + ".")
            continue
        if is_table(bare):
            yield from declared_keys(bare_type(get_args(bare)[1]), name + ".NAME.")
            continue
        if field.default is not msgspec.NODEFAULT:
            default = _quantity(field.default, hint)
        elif field.default_factory is not msgspec.NODEFAULT:
            default = shown_text(field.default_factory())
        else:
            default = "required"
        yield Key(name, allowed_text(hint), default, _description(hint))
