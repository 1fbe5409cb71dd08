"""What a summary row is grouped by, what it sums, and its id: the one definition.

Every reader of these names (the summary agent, the record store, a receiving database agent)
takes them from here, so that adding a dimension changes the grouping and the id together.

Invariants: the id is over the day and every dimension as it was before corrections, so two
groups never share one; the day is the UTC day of EndTime, for the filter and the bucket alike.
Source: GRACC's summary record (gracc-request `summary_replayer.py`) and its Logstash stash.
Tests: tests/unit/agents/test_summary_rows.py, tests/property/test_summary.py
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Final, TypeAlias, final

MISSING_TEXT: Final = "N/A"
COUNT_FIELD: Final = "Count"
DAY_FIELD: Final = "EndTime"
RAW_PREFIX: Final = "Raw"


@final
class Dimension:
    """One field that rows are grouped by, with the value that stands for a missing one."""

    __slots__ = ("default", "name", "raw_name")

    def __init__(
        self, name: str, default: str | int = MISSING_TEXT, *, corrected: bool = False
    ) -> None:
        self.name = name
        self.default = default
        # A corrected field keeps what the records said under "Raw" + name.
        self.raw_name = RAW_PREFIX + name if corrected else name


@final
class Sum:
    """One field that a row adds up, with the value that a record without it contributes."""

    __slots__ = ("missing", "name")

    def __init__(self, name: str, missing: float = 0.0) -> None:
        self.name = name
        self.missing = missing


DIMENSIONS: Final[tuple[Dimension, ...]] = (
    Dimension("VOName", corrected=True),
    Dimension("ProjectName", corrected=True),
    Dimension("DN"),
    Dimension("Processors", 1),
    Dimension("GPUs", 0),
    Dimension("ResourceType"),
    Dimension("CommonName"),
    Dimension("Host_description"),
    Dimension("Resource_ExitCode", 0),
    Dimension("Grid"),
    Dimension("ReportableVOName"),
    Dimension("ProbeName"),
    Dimension("SiteName"),
)

SUMS: Final[tuple[Sum, ...]] = (
    Sum("WallDuration"),
    Sum("CpuDuration_user"),
    Sum("CpuDuration_system"),
    Sum("CpuDuration"),
    Sum("CoreHours"),
    Sum("Njobs", 1.0),
)

# The fields that production hashes: SiteName is not among them, so that id is not unique.
PRODUCTION_ID_FIELDS: Final[tuple[str, ...]] = (
    "CommonName",
    "DN",
    "EndTime",
    "GPUs",
    "Grid",
    "Host_description",
    "ProbeName",
    "Processors",
    "RawProjectName",
    "RawVOName",
    "ReportableVOName",
    "ResourceType",
    "Resource_ExitCode",
)

Group: TypeAlias = tuple[str | int, ...]


def day_text(day: date) -> str:
    """Write a day as a row's EndTime: `YYYY-MM-DDT00:00:00.000Z`."""
    return f"{day.isoformat()}T00:00:00.000Z"


def day_of(end_time: str) -> date:
    """Give the UTC day of an RFC 3339 time with a zone; ValueError when it has none."""
    moment = datetime.fromisoformat(end_time)
    if moment.tzinfo is None:
        raise ValueError(f"time without a zone: {end_time!r}")
    return moment.astimezone(UTC).date()


def dimension_value(record: Mapping[str, object], dimension: Dimension) -> str | int:
    """Read one dimension of a raw record; missing or unreadable gives its default.

    Collectors send every value as text, the database agent types some of them; a whole number
    is read from either form, so that "1" and 1 are one group.
    """
    value = record.get(dimension.name)
    if isinstance(dimension.default, int):
        return _whole_number(value, dimension.default)
    if value is None:
        return dimension.default
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def group_of(record: Mapping[str, object]) -> Group:
    """Give the values of all dimensions of a raw record, in the order of DIMENSIONS."""
    return tuple([dimension_value(record, dimension) for dimension in DIMENSIONS])


def row_id(row: Mapping[str, object]) -> str:
    """Give a row's id: SHA-256 over its day and all dimensions, before corrections.

    A row without the Raw field of a corrected dimension (an old sender's, say) counts as
    not corrected.
    """
    values: list[object] = [str(row.get(DAY_FIELD, ""))]
    for dimension in DIMENSIONS:
        value = row.get(dimension.raw_name)
        if value is None:
            value = row.get(dimension.name, dimension.default)
        values.append(value)
    packed = json.dumps(values, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(packed.encode("utf-8", "surrogatepass")).hexdigest()


def production_id(row: Mapping[str, object]) -> str:
    """Give the MD5 id that GRACC's own summary stash would give this row.

    Not unique: SiteName is not part of it.  Kept so that rows can be matched with an index
    that production wrote.
    """
    present = {name: row[name] for name in PRODUCTION_ID_FIELDS if name in row}
    packed = json.dumps(present, separators=(",", ":"), ensure_ascii=False)
    return hashlib.md5(packed.encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest()


def _whole_number(value: object, default: int) -> int:
    if value is None or isinstance(value, bool):
        return default
    try:
        if isinstance(value, int | float):
            return int(value)
        return int(float(str(value)))
    except (ValueError, OverflowError):
        return default
