"""Message properties as STOMP headers: the table of docs/compatibility.md, both ways.

Names are RabbitMQ's.  The block is canonical (see `stomp_headers`) and never has the headers that belong to one hop
(`destination`, `receipt`, `content-length`, …).  What a property cannot hold stays a header, as text.
Tests: tests/unit/broker/wire/test_stomp_properties.py, tests/property/test_stomp_headers.py.
"""

from __future__ import annotations

import base64
import json
from decimal import Decimal
from typing import Any, Final

from broker.wire.amqp.values import Long, Timestamp
from broker.wire.properties import Properties
from broker.wire.stomp_headers import V12, Pairs, join_block, split_block

HOP_HEADERS: Final = frozenset(
    {
        b"destination",
        b"message-id",
        b"subscription",
        b"ack",
        b"content-length",
        b"receipt",
        b"receipt-id",
        b"transaction",
        b"redelivered",
        b"login",
        b"passcode",
        b"mandatory",
    }
)
"""Headers of one hop, never part of a message's block (so that no publisher can forge those the broker writes)."""

SHORT_STRING_BYTES_MAX: Final = 255
"""AMQP's limit for text properties and header names."""

REPLY_QUEUE_PREFIX: Final = "/reply-queue/"

_TEXTS: Final = {
    "content-type": "content_type",
    "content-encoding": "content_encoding",
    "correlation-id": "correlation_id",
    "reply-to": "reply_to",
    "expiration": "expiration",
    "amqp-message-id": "message_id",
    "type": "type",
    "user-id": "user_id",
    "app-id": "app_id",
    "cluster-id": "cluster_id",
}
_NUMBERS: Final = {"priority": ("priority", 255), "timestamp": ("timestamp", (1 << 64) - 1)}
_BROKER_QUEUES: Final = ("amq.gen-", "amq.rabbitmq.reply-to")


def decode_properties(block: bytes) -> Properties:
    """Read the properties of a canonical block; other headers become `headers`, as text."""
    properties = Properties()
    headers: dict[str, Any] = {}
    for raw_name, raw_value in split_block(block, V12):
        name = raw_name.decode("utf-8", "replace")
        value = raw_value.decode("utf-8", "replace")
        if name == "persistent" and value in ("true", "false"):
            properties.delivery_mode = 2 if value == "true" else 1
        elif name in _TEXTS and len(raw_value) <= SHORT_STRING_BYTES_MAX:
            if name == "reply-to" and value.startswith(REPLY_QUEUE_PREFIX):
                # AMQP peers answer by the default exchange, where the queue's name alone is the key.
                value = value[len(REPLY_QUEUE_PREFIX) :]
            setattr(properties, _TEXTS[name], value)
        elif name in _NUMBERS and _is_number(value, _NUMBERS[name][1]):
            setattr(properties, _NUMBERS[name][0], int(value))
        elif name == "x-death":
            headers[name] = _read_deaths(value)
        else:
            headers[name] = value
    if headers:
        properties.headers = headers
    return properties


def encode_properties(properties: Properties) -> bytes:
    """Write properties as a canonical block; `headers` that clash with a property or a hop header are left out."""
    pairs: Pairs = []
    names: set[bytes] = set(HOP_HEADERS)

    def add(name: str, value: str) -> None:
        raw_name = name.encode("utf-8", "replace").replace(b"\0", b"")
        if raw_name and raw_name not in names:
            names.add(raw_name)
            pairs.append((raw_name, value.encode("utf-8", "replace")))

    for name, attribute in _TEXTS.items():
        text: str | None = getattr(properties, attribute)
        if text is not None:
            if name == "reply-to" and text.startswith(_BROKER_QUEUES):
                text = REPLY_QUEUE_PREFIX + text
            add(name, header_text(text))
    if properties.delivery_mode is not None:
        add("persistent", "true" if properties.delivery_mode == 2 else "false")
    for name, (attribute, _) in _NUMBERS.items():
        number: int | None = getattr(properties, attribute)
        if number is not None:
            add(name, str(int(number)))
    for name, value in (properties.headers or {}).items():
        add(name, header_text(value))
    return join_block(pairs)


def header_text(value: Any) -> str:
    """A field value as header text: plain where it can be, else JSON (tables, arrays, text with NUL) or Base64."""
    if value is None:
        return ""
    if value is True or value is False:
        return "true" if value else "false"
    if isinstance(value, str):
        # A NUL would end the frame for most clients, content-length or not.
        return json.dumps(value) if "\0" in value else value
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float):
        return repr(float(value))
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, (bytes, bytearray)):
        return _bytes_text(bytes(value))
    return json.dumps(_plain(value), separators=(",", ":"), ensure_ascii=False)


def _bytes_text(value: bytes) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return base64.b64encode(value).decode("ascii")
    return base64.b64encode(value).decode("ascii") if "\0" in text else text


def _plain(value: Any) -> Any:
    """A field value as JSON can hold it; escaping keeps NUL out of the text."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    return header_text(value)


def _is_number(text: str, most: int) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 20 and int(text) <= most


def _read_deaths(text: str) -> Any:
    """The history of a dead letter, which the broker itself wrote as JSON; anything else stays text."""
    try:
        deaths = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if not isinstance(deaths, list) or not all(isinstance(death, dict) for death in deaths):
        return text
    for death in deaths:
        for name, kind in (("count", Long), ("time", Timestamp)):
            if type(death.get(name)) is int and 0 <= death[name] < 1 << 63:
                death[name] = kind(death[name])
    return deaths
