"""XML usage records to JSON records, key by key as the reference collector does (gracc.md 1.1 to 1.3).

Invariants: values that the table of 1.2 calls strings stay strings; the root's name decides the kind; the source of
the record is kept in `RawXML`, without the root's attributes.
Tests: tests/unit/agents/records/test_parse.py, test_fixtures.py, tests/golden/records.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from agents.errors import BadRecord
from agents.records.duration import duration_seconds, whole
from agents.records.timestamp import normal_time
from agents.records.tree import Element, parse_element

RecordValue = str | int | float
Record = dict[str, RecordValue]

JOB_ROOTS: Final = frozenset({"JobUsageRecord", "UsageRecord"})
STORAGE_ROOTS: Final = frozenset({"StorageElement", "StorageElementRecord"})
RECORD_ROOTS: Final = JOB_ROOTS | STORAGE_ROOTS

_USER_NAMES: Final = frozenset(
    {"GlobalUsername", "LocalUserId", "VOName", "ReportableVOName", "CommonName", "DN"}
)
_SPACE_NAMES: Final = frozenset(
    {"TotalSpace", "FreeSpace", "UsedSpace", "FileCount", "FileCountLimit"}
)
_RESOURCE_KINDS: Final = ("Resource", "ConsumableResource", "PhaseResource", "VolumeResource")
_TIMES: Final = frozenset({"StartTime", "EndTime", "QueueTime"})
_JOB_NAMES: Final = frozenset(
    {
        *("RecordIdentity", "JobIdentity", "UserIdentity", "Origin", "WallDuration", "CpuDuration"),
        *("TimeDuration", "TimeInstant", *_TIMES, *_RESOURCE_KINDS),
    }
)
"""Elements of a job record with rules of their own; all others go by the generic one."""
_KEY_DASHES: Final = str.maketrans(". ", "--")
_START_TAG: Final = re.compile(rb"""\s*<([^\s>/]+)(?:[^>"']|"[^"]*"|'[^']*')*>""")
_UNSIGNED_MAX: Final = 2**64 - 1


def parse_record(source: bytes) -> Record:
    """Return the JSON record of one XML record (UTF-8, from its start tag to its end tag).

    Raises BadRecord with the reason: not well-formed, not a known root, a time or a number that is none.
    """
    root = parse_element(source)
    if root.name in JOB_ROOTS:
        record = _job_record(root)
    elif root.name in STORAGE_ROOTS:
        record = _storage_record(root)
    else:
        raise BadRecord(f"{root.name} is not a kind of usage record")
    record["RawXML"] = _raw_xml(root.name, source)
    return record


def _raw_xml(name: str, source: bytes) -> str:
    """Return the source with a bare root: what the reference keeps, and replays."""
    match = _START_TAG.match(source)
    if match is None or source[match.end() - 2 : match.end() - 1] == b"/":
        return f"<{name}></{name}>"
    inner = source[match.end() : source.rfind(b"</")]
    return f"<{name}>{inner.decode()}</{name}>"


def _job_record(root: Element) -> Record:
    record: Record = {"type": "JobUsageRecord"}
    resources: dict[str, list[Element]] = {}
    cpu_seconds: float = 0
    wall: Element | None = None
    others: list[Element] = []
    process_ids: list[str] = []
    origin: Record = {}
    late: Record = {}
    for child in root.children:
        name = child.name
        if name not in _JOB_NAMES:
            others.append(child)
        elif name == "CpuDuration":
            cpu_seconds += max(0, _add_cpu(record, child))
        elif name == "WallDuration":
            wall = child
        elif name in _TIMES:
            _add_time(record, name, child.text)
        elif name in _RESOURCE_KINDS:
            resources.setdefault(name, []).append(child)
        elif name == "TimeDuration":
            key = _typed_key(child)
            late[key] = duration_seconds(child.text)
            _add_text(late, f"{key}_description", child.attributes.get("description", ""))
        elif name == "TimeInstant":
            key = _typed_key(child)
            late[key] = normal_time(child.text, key) or "0001-01-01T00:00:00Z"
            _add_text(late, f"{key}_description", child.attributes.get("description", ""))
        elif name == "RecordIdentity":
            _add_identity(record, child)
        elif name == "JobIdentity":
            process_ids += _add_job_identity(record, child)
        elif name == "UserIdentity":
            for part in child.children:
                if part.name in _USER_NAMES:
                    _set_text(record, part.name, part.text)
        elif name == "Origin":
            _add_origin(origin, child)
    if len(process_ids) == 1:
        record["ProcessId"] = process_ids[0]
    elif process_ids:
        record.update({f"ProcessId{index}": text for index, text in enumerate(process_ids)})
    record["CpuDuration"] = whole(cpu_seconds)
    record["WallDuration"] = duration_seconds(wall.text) if wall else 0
    if wall is not None:
        _add_text(record, "WallDuration_description", wall.attributes.get("description", ""))
    _add_resources(record, resources)
    record.update(late)
    _add_fields(record, others)
    record.update(origin)
    record["type"] = "JobUsageRecord"
    return record


def _storage_record(root: Element) -> Record:
    record: Record = {"type": root.name, "UniqueID": ""}
    has_numbers = root.name == "StorageElementRecord"
    others: list[Element] = []
    origin: Record = {}
    for child in root.children:
        name = child.name
        if name == "UniqueID":
            record["UniqueID"] = child.text
        elif name == "Timestamp":
            _add_time(record, name, child.text)
        elif name == "Origin":
            _add_origin(origin, child)
        elif has_numbers and name in _SPACE_NAMES:
            number = _unsigned(child.text, name)
            if number:
                record[name] = number
            else:
                record.pop(name, None)
        else:
            others.append(child)
    _add_fields(record, others)
    record.update(origin)
    record["type"] = root.name
    return record


def _add_cpu(record: Record, element: Element) -> int | float:
    """Add one kind of processor time; return its seconds."""
    seconds = duration_seconds(element.text)
    usage = element.attributes.get("usageType", "")
    if usage:
        record[f"CpuDuration_{usage}"] = seconds
    _add_text(record, f"CpuDuration_{usage}_description", element.attributes.get("description", ""))
    return seconds


def _add_identity(record: Record, element: Element) -> None:
    _add_text(record, "RecordId", element.attributes.get("recordId", ""))
    created = element.attributes.get("createTime", "")
    if created:
        _add_time(record, "CreateTime", created)


def _add_job_identity(record: Record, element: Element) -> list[str]:
    """Add the job's identifiers; return its process ids."""
    process_ids = []
    for part in element.children:
        if part.name in {"GlobalJobId", "LocalJobId"}:
            _set_text(record, part.name, part.text)
        elif part.name == "ProcessId":
            process_ids.append(part.text)
    return process_ids


def _add_resources(record: Record, resources: dict[str, list[Element]]) -> None:
    kind: RecordValue = ""
    if "Resource" in resources:
        # Without a plain Resource the other kinds vanish: so does the reference, and so checksums agree.
        for name in _RESOURCE_KINDS:
            for element in resources.get(name, ()):
                attributes = element.attributes
                described = attributes.get("description", "")
                key = "Resource_" + (_dashed(described) if described else "unknown")
                record[key] = element.text
                _add_text(record, f"{key}_unit", attributes.get("unit", ""))
                _add_text(record, f"{key}_storageUnit", attributes.get("storageUnit", ""))
                phase = attributes.get("phaseUnit", "")
                if phase:
                    record[f"{key}_phaseUnit"] = duration_seconds(phase)
        kind = record.pop("Resource_ResourceType", "")
    record["ResourceType"] = {"": "Batch", "BatchPilot": "Payload"}.get(str(kind), kind)


def _add_fields(record: Record, elements: Iterable[Element]) -> None:
    """Add elements by the generic rule: text and attributes as strings, nothing converted."""
    for element in elements:
        name = element.name
        if element.text:
            record[name] = element.text
        attributes = element.attributes
        if not attributes:
            continue
        for attribute in ("description", "unit", "storageUnit", "formula", "metric"):
            value = attributes.get(attribute)
            if value:
                record[f"{name}_{attribute}"] = value
        phase = attributes.get("phaseUnit")
        if phase:
            record[f"{name}_phaseUnit"] = duration_seconds(phase)


def _add_origin(origin: Record, element: Element) -> None:
    hop = _unsigned(element.attributes.get("hop", ""), "Origin hop")
    if hop:
        origin["Origin_hop"] = hop
    for part in element.children:
        if part.name == "ServerDate":
            _add_time(origin, "OriginServerDate", part.text)
        elif part.name == "Connection":
            for end in part.children:
                if end.name in {"SenderHost", "Sender", "Collector"}:
                    _set_text(origin, f"Origin{end.name}", end.text)


@lru_cache(maxsize=4096)
def _dashed(text: str) -> str:
    """Return a description as part of a key."""
    return text.translate(_KEY_DASHES)


def _typed_key(element: Element) -> str:
    kind = element.attributes.get("type", "")
    return f"{element.name}_{_dashed(kind) if kind else 'unknown'}"


def _add_text(record: Record, key: str, text: str) -> None:
    if text:
        record[key] = text


def _set_text(record: Record, key: str, text: str) -> None:
    """Let the last of repeated elements win, an empty one included."""
    if text:
        record[key] = text
    else:
        record.pop(key, None)


def _add_time(record: Record, key: str, text: str) -> None:
    normal = normal_time(text, key)
    if normal:
        record[key] = normal
    else:
        record.pop(key, None)


def _unsigned(text: str, name: str) -> int:
    text = text.strip()
    if not text:
        return 0
    if not (text.isascii() and text.isdecimal() and len(text) <= 20) or int(text) > _UNSIGNED_MAX:
        raise BadRecord(f"{name} {text[:60]!r} is not a whole number")
    return int(text)
