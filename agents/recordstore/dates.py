"""Dates in filters, with Elasticsearch's meaning: partial dates cover their unit, and date math.

Forms: `2026`, `2026-01`, … `2026-01-20T10:11:12.345` with or without a zone (none: UTC), milliseconds since 1970
(five digits or more), `now`; after `now`, or after `DATE||`, math such as `-1d`, `+1M`, `/d`.
Source: Elasticsearch reference, "Date math" and "strict_date_optional_time||epoch_millis".
Invariant: pure; the present comes as an argument.  Tests: tests/unit/agents/recordstore/test_dates.py.
"""

from __future__ import annotations

import re
from calendar import monthrange
from datetime import UTC, datetime, timedelta, timezone
from typing import Final

_DATE: Final = re.compile(
    r"(\d{4})(?:-(\d\d)(?:-(\d\d)(?:T(?:(\d\d)(?::(\d\d)(?::(\d\d)(?:[.,](\d{1,9}))?)?)?)?"
    r"(Z|[+-]\d\d(?::?\d\d)?)?)?)?)?",
    re.ASCII,
)
_MATH: Final = re.compile(r"([+-])(\d{1,6})([yMwdhHms])|/([yMwdhHms])", re.ASCII)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
_UNITS: Final = "yMdhms"
_SECONDS: Final = {"w": 604_800, "d": 86_400, "h": 3_600, "H": 3_600, "m": 60, "s": 1}
_MATH_STEPS_MAX: Final = 16


def date_bound_ms(text: str, now: datetime, *, rounds_up: bool) -> int:
    """Read a date as milliseconds since 1970; ValueError with the reason when it is none.

    `rounds_up` gives the last millisecond of the unit that the date (or its `/unit`) leaves open.
    """
    base, math = ("now", text[3:]) if text.startswith("now") else _split(text)
    try:
        if base == "now":
            moment, unit = now.astimezone(UTC), None
        elif base.isascii() and base.isdigit() and len(base) > 4:
            moment, unit = _EPOCH + int(base) * _MILLISECOND, None
        else:
            moment, unit = _read(base)
        if math:
            # Before math the date is taken at its first moment; each rounding step goes up or down.
            moment, unit = _calculate(moment, math, rounds_up=rounds_up), None
        if rounds_up and unit is not None:
            return (_add(moment, 1, unit) - _EPOCH) // _MILLISECOND - 1
        return (moment - _EPOCH) // _MILLISECOND
    except (OverflowError, ValueError) as error:
        raise ValueError(f"{text!r} is not a date: {error}") from error


def _split(text: str) -> tuple[str, str]:
    base, bars, math = text.partition("||")
    if bars and not math:
        raise ValueError(f"{text!r} is not a date: nothing follows ||")
    return base, math


def _read(text: str) -> tuple[datetime, str | None]:
    match = _DATE.fullmatch(text)
    if match is None:
        raise ValueError(
            "write 2026-01-20, 2026-01-20T10:00:00Z, milliseconds since 1970, or now-1d/d"
        )
    given = [part for part in match.groups()[:6] if part is not None]
    numbers = [int(part) for part in given] + [1, 1, 1, 0, 0, 0][len(given) :]
    fraction = match[7]
    microseconds = int(fraction[:6].ljust(6, "0")) if fraction else 0
    year, month, day, hour, minute, second = numbers
    moment = datetime(year, month, day, hour, minute, second, microseconds, _zone(match[8]))
    return moment.astimezone(UTC), None if fraction else _UNITS[len(given) - 1]


def _zone(text: str | None) -> timezone:
    if text is None or text == "Z":
        return UTC
    digits = text[1:].replace(":", "").ljust(4, "0")
    offset = timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
    return timezone(-offset if text[0] == "-" else offset)


def _calculate(moment: datetime, math: str, *, rounds_up: bool) -> datetime:
    place = steps = 0
    while place < len(math):
        match = _MATH.match(math, place)
        steps += 1
        if match is None or steps > _MATH_STEPS_MAX:
            raise ValueError(f"date math {math!r} is not made of +1d, -1M, /d and alike")
        if match[4]:
            moment = _floor(moment, match[4])
            if rounds_up:
                moment = _add(moment, 1, match[4]) - _MILLISECOND
        else:
            moment = _add(moment, int(match[1] + match[2]), match[3])
        place = match.end()
    return moment


def _add(moment: datetime, amount: int, unit: str) -> datetime:
    if unit in "yM":
        months = moment.year * 12 + moment.month - 1 + amount * (12 if unit == "y" else 1)
        year, month = months // 12, months % 12 + 1
        if not 1 <= year <= 9999:
            raise ValueError("the year is out of range")
        return moment.replace(
            year=year, month=month, day=min(moment.day, monthrange(year, month)[1])
        )
    return moment + timedelta(seconds=amount * _SECONDS[unit])


def _floor(moment: datetime, unit: str) -> datetime:
    if unit == "s":
        return moment.replace(microsecond=0)
    if unit == "m":
        return moment.replace(second=0, microsecond=0)
    if unit in "hH":
        return moment.replace(minute=0, second=0, microsecond=0)
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    if unit == "w":
        return midnight - timedelta(days=midnight.weekday())
    if unit == "M":
        return midnight.replace(day=1)
    return midnight.replace(month=1, day=1) if unit == "y" else midnight
