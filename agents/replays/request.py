"""A replay request: read from JSON, checked, and refused with the field and the reason.

Takes GRACC's request as its clients send it (`from` and `to` by Python's isoformat, no zone:
UTC) and ours, which adds `id`.

Invariants: nothing in a checked request can break out of a STOMP header or destination; both
ends of the range belong to it; the control channel is read even from a request that is
otherwise wrong, so that its sender hears why.
Source: gracc-request, message format of its request queue.
Tests: tests/unit/agents/test_replay_request.py
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Final, final

RAW: Final = "raw"
SUMMARY: Final = "summary"
KINDS: Final = (RAW, SUMMARY)

BODY_BYTES_MAX: Final = 128 * 1024
FILTER_LENGTH_MAX: Final = 64 * 1024
NAME_BYTES_MAX: Final = 255
RANGE_DAYS_MAX: Final = 36_525
_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_CONTROL_CHARACTER: Final = re.compile(r"[\x00-\x1f\x7f]")
_DAY_ONLY: Final = re.compile(r"\d{4}-\d\d-\d\d|\d{8}")
_NEEDED: Final = ("from", "to", "kind", "destination")


class RequestError(ValueError):
    """A request that cannot be done; the text names the field, the fault and what to write."""

    def __init__(self, field: str, text: str) -> None:
        super().__init__(f"{field}: {text}" if field else text)
        self.field = field


@final
@dataclass(frozen=True, slots=True)
class ControlChannel:
    """Where to tell the sender how its request goes: an exchange and a key."""

    exchange: str
    key: str


@final
@dataclass(frozen=True, slots=True)
class ReplayRequest:
    """One checked request; both times belong to the range, an empty filter means everything."""

    request_id: str | None
    kind: str
    start: datetime
    end: datetime
    destination: str
    routing_key: str
    control: ControlChannel | None
    filter_text: str

    def days(self) -> list[date]:
        """Give the UTC days from the range's first to its last."""
        first = self.start.date()
        return [first + timedelta(days=n) for n in range((self.end.date() - first).days + 1)]


def read_request(body: bytes, range_days_max: int = RANGE_DAYS_MAX) -> ReplayRequest:
    """Read and check a request; RequestError says what is wrong with it."""
    fields = _fields(body)
    for name in _NEEDED:
        if fields.get(name) in (None, ""):
            raise RequestError(name, f"missing; a request needs {', '.join(_NEEDED)}")
    kind = fields["kind"]
    if kind not in KINDS:
        raise RequestError("kind", f"{kind!r} is not offered; write {' or '.join(KINDS)}")
    start = _moment(fields, "from")
    end = _moment(fields, "to")
    if end < start:
        raise RequestError("to", f"{fields['to']} is before from ({fields['from']})")
    if (end - start).days > range_days_max:
        raise RequestError("to", f"more than {range_days_max} days after from; ask for less")
    destination = _name(fields, "destination")
    if not destination.strip("/"):
        raise RequestError("destination", "names nothing")
    return ReplayRequest(
        _request_id(fields),
        str(kind),
        start,
        end,
        destination,
        _name(fields, "routing_key"),
        read_control(body),
        _filter(fields),
    )


def read_control(body: bytes) -> ControlChannel | None:
    """Find the control channel of a request, right or wrong; None when it names none."""
    try:
        fields = _fields(body)
        exchange = _name(fields, "control")
        key = _name(fields, "control_key")
    except RequestError:
        return None
    if not exchange and not key:
        return None
    return ControlChannel(exchange, key)


def read_id(body: bytes) -> str | None:
    """Find the id that a request, right or wrong, gives itself."""
    try:
        return _request_id(_fields(body))
    except RequestError:
        return None


def _fields(body: bytes) -> dict[str, object]:
    if len(body) > BODY_BYTES_MAX:
        raise RequestError("", f"a request of {len(body)} bytes; at most {BODY_BYTES_MAX}")
    try:
        fields = json.loads(body)
    except RecursionError as error:
        raise RequestError("", "nested too deeply") from error
    except ValueError as error:
        raise RequestError("", f"not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise RequestError("", "not a JSON object")
    return fields


def _name(fields: dict[str, object], field: str) -> str:
    value = fields.get(field)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise RequestError(field, "must be a text")
    try:
        size_bytes = len(value.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise RequestError(field, "is not valid Unicode") from error
    if size_bytes > NAME_BYTES_MAX:
        raise RequestError(field, f"longer than {NAME_BYTES_MAX} bytes")
    if _CONTROL_CHARACTER.search(value):
        raise RequestError(field, "holds a control character")
    return value


def _request_id(fields: dict[str, object]) -> str | None:
    value = fields.get("id")
    if value is None:
        return None
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise RequestError("id", "must be 1 to 64 of the characters A-Z a-z 0-9 . _ : -")
    return value


def _moment(fields: dict[str, object], field: str) -> datetime:
    value = fields[field]
    if not isinstance(value, str):
        raise RequestError(field, "must be a text such as 2016-05-27T00:00:00")
    try:
        moment = datetime.fromisoformat(value)
        if field == "to" and _DAY_ONLY.fullmatch(value):
            # A bare day as the end means all of it, as in an Elasticsearch range.
            moment = datetime.combine(moment.date(), time.max)
        if moment.tzinfo is None:
            return moment.replace(tzinfo=UTC)
        return moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise RequestError(field, f"{value[:80]!r} is not an ISO 8601 time") from error


def _filter(fields: dict[str, object]) -> str:
    value = fields.get("filter")
    if value is None or value == {}:
        return ""
    if not isinstance(value, str | dict):
        raise RequestError("filter", "must be an Elasticsearch query object or a query string")
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if len(text) > FILTER_LENGTH_MAX:
        raise RequestError("filter", f"longer than {FILTER_LENGTH_MAX} characters")
    return text
