"""The types of the records' fields, as searches see them: the one table for every store and filter.

After the mapping that GRACC's Elasticsearch uses (gracc-tools `gracc-raw-jobs-template.json`), with `GPUs`,
the spaces of storage records and the numbers of summary rows typed as well.  A field without a row
here is a keyword.  Decided: a keyword longer than 256 characters is kept but cannot be searched and does not
"exist" (`ignore_above`); lists and objects are kept and not searched; numbers may be stored as text.
Tests: tests/unit/agents/recordstore/test_filter.py.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final, final

KEYWORD_LENGTH_MAX: Final = 256
FIELD_LENGTH_MAX: Final = 256
ID_FIELD: Final = "_id"
VO_ALIAS: Final = "vo"
VO_FIELDS: Final = ("VOName", "ReportableVOName")
VO_PATH_FIELD: Final = "VOName"


@final
class FieldType(Enum):
    """How the values of a field are compared."""

    KEYWORD = auto()
    LONG = auto()
    DOUBLE = auto()
    DATE = auto()
    BOOLEAN = auto()
    TEXT = auto()
    UNINDEXED = auto()
    ID = auto()


_LONG: Final = [
    "Count",
    "FileCount",
    "FileCountLimit",
    "FreeSpace",
    "GPUs",
    "Network_phaseUnit",
    "Njobs",
    "NodeCount",
    "Origin_hop",
    "Processors",
    "Resource_ExitCode",
    "Resource_ExitSignal",
    "Resource_condor-JobStatus",
    "TotalSpace",
    "UsedSpace",
    "WallDuration",
]
_DOUBLE: Final = [
    "CoreHours",
    "CpuDuration",
    "GPUHours",
    "Memory",
    "Network",
    "OIM_WLCGAPELNormalFactor",
    "OIM_WLCGAPELNormalizedCpuDuration",
    "OIM_WLCGAPELNormalizedWallDuration",
    "Swap",
]
_DATE: Final = [
    "@received",
    "@timestamp",
    "CreateTime",
    "EndTime",
    "OriginServerDate",
    "QueueTime",
    "StartTime",
    "Timestamp",
]

FIELD_TYPES: Final[dict[str, FieldType]] = {
    **dict.fromkeys(_LONG, FieldType.LONG),
    **dict.fromkeys(_DOUBLE, FieldType.DOUBLE),
    **dict.fromkeys(_DATE, FieldType.DATE),
    "Host_description": FieldType.KEYWORD,
    "RawXML": FieldType.UNINDEXED,
    "Resource_ExitBySignal": FieldType.BOOLEAN,
    "checksum": FieldType.UNINDEXED,
    ID_FIELD: FieldType.ID,
}


def field_type(field: str) -> FieldType:
    """Give a field's type; every name has one."""
    known = FIELD_TYPES.get(field)
    if known is not None:
        return known
    if field.endswith("_description"):
        return FieldType.TEXT
    if field.startswith("TimeInstant_"):
        return FieldType.DATE
    if field.startswith(("CpuDuration_", "TimeDuration_")) or field.endswith("_phaseUnit"):
        return FieldType.DOUBLE
    return FieldType.KEYWORD
