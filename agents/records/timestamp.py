"""Times of records: RFC 3339 with a zone, whole seconds (gracc.md 1.1, 1.2).

Tests: tests/unit/agents/records/test_timestamp.py.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Final

from agents.errors import BadRecord

_PATTERN: Final = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:[.,]\d+)?(Z|[+-](\d\d):(\d\d))", re.ASCII
)
_ZERO: Final = "0001-01-01T00:00:00Z"


def normal_time(text: str, name: str) -> str:
    """Return a time as records carry it: whole seconds, the zone it came with; empty for the zero time.

    Raises BadRecord that names the field.
    """
    text = text.strip()
    if len(text) == 20 and text[19] == "Z":
        # The common case: only the value has to be checked, the text stays.
        try:
            datetime.fromisoformat(text)
        except ValueError:
            pass
        else:
            if _PATTERN.fullmatch(text):
                return "" if text == _ZERO else text
    moment = _parsed(text)
    if moment is None:
        shown = text if len(text) <= 60 else text[:60] + "…"
        raise BadRecord(f"{name} {shown!r} is not a time as RFC 3339 writes it, with a zone")
    zone = text[-6:] if text[-1] != "Z" else "Z"
    if zone in {"+00:00", "-00:00"}:
        zone = "Z"
    normal = f"{moment.replace(tzinfo=None).isoformat(timespec='seconds')}{zone}"
    return "" if normal == _ZERO else normal


def parse_time(value: object) -> datetime | None:
    """Return a time of a record in UTC, or None where there is none or it cannot be read."""
    if not isinstance(value, str):
        return None
    if (
        len(value) == 20
        and value[19] == "Z"
        and value[10] == "T"
        and value[4] == value[7] == "-"
        and value[13] == ":"
        and "W" not in value
    ):
        # The common case, a tenth of the cost; what it does not take is looked at below.
        try:
            return datetime.fromisoformat(value)
        except ValueError:
            return None
    moment = _parsed(value.strip())
    try:
        return None if moment is None else moment.astimezone(UTC)
    except OverflowError:
        return None


def time_text(moment: datetime) -> str:
    """Return a moment as `2016-05-27T22:44:08Z`."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="seconds") + "Z"


def precise_text(moment: datetime) -> str:
    """Return a moment as `2016-05-27T22:44:08.000Z`."""
    if moment.tzinfo is not UTC:
        moment = moment.astimezone(UTC)
    # Without its zone a time is written three times as quickly.
    return moment.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


def _parsed(text: str) -> datetime | None:
    match = _PATTERN.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second, zone, zone_hours, zone_minutes = match.groups()
    try:
        offset = UTC
        if zone != "Z":
            shift = timedelta(hours=int(zone_hours), minutes=int(zone_minutes))
            offset = timezone(-shift if zone[0] == "-" else shift)
        return datetime(
            int(year), int(month), int(day), int(hour), int(minute), int(second), tzinfo=offset
        )
    except ValueError:
        return None
