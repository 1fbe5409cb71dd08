"""From a request to messages: what is taken, what goes to quarantine, what the sender hears (gracc.md 2.1, 2.2).

Invariants: one bad record never stops the others of its bundle; what is refused as a whole is kept by the sender,
so nothing of it is published or put into quarantine.  Pure: no files, no sockets, no clock.
Tests: tests/unit/agents/collector/test_intake.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, final

import msgspec

from agents.collector.form import parse_form
from agents.collector.quarantine import Rejected
from agents.errors import BadRecord, BadRequest
from agents.records.parse import RECORD_ROOTS, parse_record
from agents.records.payload import Form, Item, split_payload
from agents.records.timestamp import normal_time
from agents.records.tree import Element, parse_element
from agents.records.wire import encode_record

PING: Final = b"xxx"
COMMANDS: Final = frozenset({"multiupdate", "urlencodedupdate", "update"})
TOO_LARGE: Final = "Error: java.lang.IllegalStateException: Post too large"
"""The text at which probes shrink their bundles by a tenth and try again."""
PROBE_DETAILS: Final = "ProbeDetails"
BACKLOG_NAMES: Final = ("xmlfiles", "tarfiles", "maxpendingfiles", "backlog")
SENDER_CHARACTERS_MAX: Final = 256
JSON_ITEMS_MAX: Final = 50_000
_TIME_NAMES: Final = (
    *("EndTime", "StartTime", "QueueTime", "CreateTime", "Timestamp", "OriginServerDate"),
)
_NUMBER_NAMES: Final = ("WallDuration", "CpuDuration", "CpuDuration_user", "CpuDuration_system")
_JSON: Final = msgspec.json.Decoder()


@final
class Intake:
    """What came in with one request."""

    __slots__ = ("backlog", "bodies", "details", "how", "rejected", "sender", "unknown_count")

    def __init__(self, sender: str, how: str) -> None:
        self.sender = sender
        self.how = how
        self.bodies: list[bytes] = []
        self.rejected: list[Rejected] = []
        self.unknown_count = 0
        self.details: dict[str, str] = {}
        self.backlog: dict[str, int] = {}


def take_form(query: bytes, body: bytes, record_bytes_max: int) -> Intake:
    """Take what a probe or a collector posts to `…/rmi`; raise BadRequest with the text it is told."""
    fields = parse_form(query, body)
    command = _field(fields, "command").decode("utf-8", "replace")
    known = command.lower()
    if known not in COMMANDS:
        raise BadRequest(f"Error: Unknown Command: {command[:100]}")
    payload = _field(fields, "arg1")
    sender = fields.get("from", b"").decode("utf-8", "replace")[:SENDER_CHARACTERS_MAX]
    intake = Intake(sender, known)
    for name in BACKLOG_NAMES:
        text = fields.get(name, b"").strip()
        if text.isdigit() and len(text) <= 12:
            intake.backlog[name] = int(text)
    if payload.strip() == PING:
        intake.how = "ping"
        return intake
    if not sender:
        raise BadRequest('Error handling request: missing key "from"')
    try:
        parts = split_payload(payload)
    except BadRequest as error:
        raise BadRequest(f"Error handling request: {error.text}") from error
    if parts.form is Form.REPLICATION:
        _check_bundlesize(fields, len(parts.items))
    for item in parts.items:
        _take_item(intake, item, record_bytes_max)
    return intake


def take_json(body: bytes, sender: str, record_bytes_max: int) -> Intake:
    """Take JSON records: an object, an array of objects, or one object a line; raise BadRequest otherwise."""
    intake = Intake(sender[:SENDER_CHARACTERS_MAX], "records")
    for source, value in _json_items(body):
        try:
            if isinstance(value, BadRecord):
                raise value
            if len(source) > record_bytes_max:
                raise BadRecord(f"{len(source)} bytes, more than {record_bytes_max}")
            intake.bodies.append(encode_record(checked_json(value)))
        except BadRecord as error:
            intake.rejected.append(Rejected(source, error.text))
    return intake


def checked_json(value: object) -> dict[str, object]:
    """Return a JSON value as a record; raise BadRecord unless it is flat, with times and durations that are such."""
    if not isinstance(value, dict):
        raise BadRecord("a record is a JSON object")
    if not value:
        raise BadRecord("an empty object is no record")
    record: dict[str, object] = value
    for name, field in record.items():
        if field is None or isinstance(field, dict | list):
            raise BadRecord(f"{name!r} is neither a text nor a number nor true or false")
    for name in _TIME_NAMES:
        if name in record:
            text = record[name]
            if not isinstance(text, str):
                raise BadRecord(f"{name} is not a time as text")
            normal_time(text, name)
    for name in _NUMBER_NAMES:
        number = record.get(name, 0)
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise BadRecord(f"{name} is not a number of seconds")
    record.setdefault("type", "JobUsageRecord")
    return record


def _json_items(body: bytes) -> Iterable[tuple[bytes, object]]:
    text = body.strip()
    if not text:
        raise BadRequest(
            "Error: an empty body; send a JSON record, an array of them, or one a line"
        )
    try:
        whole: object = _JSON.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return _json_lines(text, error)
    if not isinstance(whole, list):
        return [(text, whole)]
    if len(whole) > JSON_ITEMS_MAX:
        raise BadRequest(f"Error: more than {JSON_ITEMS_MAX} records in one request")
    return [(msgspec.json.encode(value), value) for value in whole]


def _json_lines(text: bytes, problem: Exception) -> list[tuple[bytes, object]]:
    lines = [line for line in text.split(b"\n") if line.strip()]
    if len(lines) > JSON_ITEMS_MAX:
        raise BadRequest(f"Error: more than {JSON_ITEMS_MAX} records in one request")
    items: list[tuple[bytes, object]] = []
    good_count = 0
    for line in lines:
        try:
            value: object = _JSON.decode(line)
            good_count += 1
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            value = BadRecord(f"not JSON: {error}")
        items.append((line, value))
    if good_count == 0 or len(lines) == 1:
        raise BadRequest(f"Error: the body is neither JSON nor one JSON record a line: {problem}")
    return items


def _take_item(intake: Intake, item: Item, record_bytes_max: int) -> None:
    problem = item.problem
    if not problem and item.name not in RECORD_ROOTS:
        intake.unknown_count += 1
        if item.name == PROBE_DETAILS:
            intake.details.update(_details(item.source))
        return
    if not problem and len(item.source) > record_bytes_max:
        problem = f"{len(item.source)} bytes, more than {record_bytes_max}"
    if not problem:
        try:
            intake.bodies.append(encode_record(parse_record(_repaired(item.source))))
            return
        except BadRecord as error:
            problem = error.text
    intake.rejected.append(Rejected(item.source, problem))


def _repaired(source: bytes) -> bytes:
    """Escape the one piece of broken markup that old senders are known to write (gracc.md 2.1)."""
    if b"<undefined>" in source and b"</undefined>" not in source:
        return source.replace(b"<undefined>", b"&lt;undefined&gt;")
    return source


def _details(source: bytes) -> dict[str, str]:
    """Return what a probe says about itself, flat, at most 64 short texts."""
    try:
        root = parse_element(source)
    except BadRecord:
        return {}
    found: dict[str, str] = {}

    def add(prefix: str, element: Element) -> None:
        for name, text in (*element.attributes.items(), ("", element.text.strip())):
            key = ".".join(part for part in (prefix, name) if part)
            if text and key and len(found) < 64:
                found[key[:128]] = text[:512]
        for child in element.children:
            add(".".join(part for part in (prefix, child.name) if part), child)

    add("", root)
    return found


def _check_bundlesize(fields: dict[str, bytes], count: int) -> None:
    text = fields.get("bundlesize", b"").strip()
    if not text:
        return
    if not text.isdigit() or len(text) > 12:
        raise BadRequest("Error handling request: error interpreting bundlesize")
    if int(text) != count:
        raise BadRequest(
            f"Error handling request: number of records in bundle ({count})"
            f" different than expected ({int(text)})"
        )


def _field(fields: dict[str, bytes], name: str) -> bytes:
    value = fields.get(name)
    if value is None:
        raise BadRequest(f'Error handling request: missing key "{name}"')
    return value
