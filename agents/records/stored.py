"""The stored record: a raw record and what the database agent adds to it (gracc.md 1.4).

Invariants: the steps run in the documented order, as the checksum must not see what comes after it; a record that
is stored already (it has `checksum` and `@received`, as replays send it) keeps both, so that it gets the same id
wherever it goes.  Nothing is refused here: what makes no sense is marked in `Quarantine`.
Tests: tests/unit/agents/records/test_stored.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from agents.records.checksum import record_checksum
from agents.records.timestamp import parse_time, precise_text, time_text

INT_NAMES: Final = ("Processors", "Njobs", "NodeCount")
FLOAT_NAMES: Final = ("Memory", "Swap", "Network")
DERIVED_NAMES: Final = frozenset(
    {"checksum", "@received", "@timestamp", "CoreHours", "PayloadSiteName", "Quarantine"}
)
MISSING_END: Final = "MissingEndTime"
EPOCH_START: Final = "EpochStartTime"
BAD_NUMBER: Final = "BadNumber"
_EPOCH_SECONDS: Final = 86_400

_INT: Final = re.compile(r"\s*[+-]?\d{1,18}(?!\d)", re.ASCII)
_FLOAT: Final = re.compile(r"\s*[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?", re.ASCII)
_CHECKSUM: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)


def stored_record(raw: Mapping[str, object], received: datetime) -> dict[str, object]:
    """Return the record as it is stored; `received` (with a zone) is when the database got it.

    The id is its `checksum`, the index its month is `@timestamp`; a `Quarantine` names what is wrong with it.
    """
    kept_checksum, kept_received = _identity(raw)
    record = {key: value for key, value in raw.items() if key not in DERIVED_NAMES}
    if not record.get("type"):
        record["type"] = "JobUsageRecord"
    problem = _convert_numbers(record)
    record["checksum"] = kept_checksum or record_checksum(record)
    if kept_received is not None:
        received = kept_received
    record["@received"] = precise_text(received)
    if record.get("ResourceType") == "Payload" and "Host_description" in record:
        record["PayloadSiteName"] = record["Host_description"]
    if record["type"] in {"StorageElement", "StorageElementRecord"}:
        moment = parse_time(record.get("Timestamp"))
        if moment is None:
            problem = MISSING_END
    else:
        wall_seconds = _number(record.get("WallDuration"))
        _add_core_hours(record, wall_seconds)
        moment = parse_time(record.get("EndTime"))
        moment, repaired_problem = _repair_times(record, moment, wall_seconds, received)
        problem = repaired_problem or problem
    record["@timestamp"] = precise_text(moment if moment is not None else received)
    if problem:
        record["Quarantine"] = problem
    return record


def _identity(raw: Mapping[str, object]) -> tuple[str, datetime | None]:
    """Return checksum and arrival of a record that was stored before, or neither."""
    checksum = raw.get("checksum")
    if not isinstance(checksum, str) or not _CHECKSUM.fullmatch(checksum):
        return "", None
    received = parse_time(raw.get("@received"))
    if received is None:
        return "", None
    text = str(raw["@received"])
    fraction = re.search(r"\.(\d{1,6})", text)
    if fraction is not None:
        received += timedelta(microseconds=int(fraction[1].ljust(6, "0")))
    return checksum, received


def _convert_numbers(record: dict[str, object]) -> str:
    """Convert texts to numbers as the databases do (the leading number, else 0); return what is wrong, if any."""
    problem = ""
    for name in INT_NAMES:
        value = record.get(name)
        if isinstance(value, str):
            match = _INT.match(value.replace(",", ""))
            record[name] = int(match[0]) if match else 0
            if match is None:
                problem = BAD_NUMBER
        elif isinstance(value, float):
            record[name] = int(value) if math.isfinite(value) else 0
    for name in FLOAT_NAMES:
        value = record.get(name)
        if isinstance(value, str):
            match = _FLOAT.match(value.replace(",", ""))
            number = float(match[0]) if match else 0.0
            if match is None or not math.isfinite(number):
                problem = BAD_NUMBER
                number = 0.0
            record[name] = number
        elif isinstance(value, int):
            record[name] = float(value)
    return problem


def _add_core_hours(record: dict[str, object], wall_seconds: float | None) -> None:
    processors = record.get("Processors")
    count = processors if isinstance(processors, int) else 1
    record["CoreHours"] = (wall_seconds or 0.0) * float(count) / 3600.0


def _repair_times(
    record: dict[str, object], end: datetime | None, wall_seconds: float | None, received: datetime
) -> tuple[datetime | None, str]:
    """Fill in the missing one of start and end; return the end and what is wrong, if anything."""
    start = parse_time(record.get("StartTime"))
    wall = _wall(wall_seconds)
    try:
        if end is None and start is not None and wall is not None:
            end = start + wall
            if end > received:
                end = received
                start = end - wall
                record["StartTime"] = time_text(start)
            record["EndTime"] = time_text(end)
        elif end is not None and start is None and wall is not None:
            start = end - wall
            record["StartTime"] = time_text(start)
    except OverflowError:
        # A start or an end outside the years 1 to 9999.
        return end, MISSING_END
    if end is None:
        return None, MISSING_END
    if start is not None and (start - _epoch()).total_seconds() <= _EPOCH_SECONDS:
        return end, EPOCH_START
    return end, ""


def _wall(seconds: float | None) -> timedelta | None:
    try:
        return None if seconds is None else timedelta(seconds=seconds)
    except OverflowError:
        return None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _epoch() -> datetime:
    return datetime.fromtimestamp(0, UTC)
