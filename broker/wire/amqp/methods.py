"""The methods of AMQP 0-9-1: one table that drives both encoding and decoding.

Classes, ids and fields are those of the specification with RabbitMQ's extensions (exchange.bind, basic.nack, confirm,
connection.blocked, update-secret); reserved fields keep a name with an underscore.  Knows nothing of channels or states.
Tests: tests/unit/broker/wire/amqp/test_methods.py, tests/property/test_amqp_values.py.
"""

from __future__ import annotations

from struct import Struct
from typing import Any, Final, final

from broker.errors import CommandInvalid
from broker.wire.amqp.values import (
    decode_long_string,
    decode_short_string,
    decode_table,
    encode_long_string,
    encode_short_string,
    encode_table,
    syntax_error,
)

_NUMBERS: Final = {
    "octet": Struct(">B"),
    "short": Struct(">H"),
    "long": Struct(">I"),
    "longlong": Struct(">Q"),
}
_STRIPPED: Final = str.maketrans("", "", "\r\n")

# A field is `name:type`; `name` is the type of queue and exchange names, a short string that loses CR and LF (RabbitMQ).
_TABLE: Final = """
10 10 connection.start           version_major:octet version_minor:octet server_properties:table mechanisms:longstr
                                 locales:longstr
10 11 connection.start-ok        client_properties:table mechanism:shortstr response:longstr locale:shortstr
10 20 connection.secure          challenge:longstr
10 21 connection.secure-ok       response:longstr
10 30 connection.tune            channel_max:short frame_max:long heartbeat:short
10 31 connection.tune-ok         channel_max:short frame_max:long heartbeat:short
10 40 connection.open            virtual_host:shortstr _capabilities:shortstr _insist:bit
10 41 connection.open-ok         _known_hosts:shortstr
10 50 connection.close           reply_code:short reply_text:shortstr class_id:short method_id:short
10 51 connection.close-ok
10 60 connection.blocked         reason:shortstr
10 61 connection.unblocked
10 70 connection.update-secret   new_secret:longstr reason:shortstr
10 71 connection.update-secret-ok

20 10 channel.open               _out_of_band:shortstr
20 11 channel.open-ok            _channel_id:longstr
20 20 channel.flow               active:bit
20 21 channel.flow-ok            active:bit
20 40 channel.close              reply_code:short reply_text:shortstr class_id:short method_id:short
20 41 channel.close-ok

30 10 access.request             realm:shortstr exclusive:bit passive:bit active:bit write:bit read:bit
30 11 access.request-ok          ticket:short

40 10 exchange.declare           _ticket:short exchange:name type:shortstr passive:bit durable:bit auto_delete:bit
                                 internal:bit nowait:bit arguments:table
40 11 exchange.declare-ok
40 20 exchange.delete            _ticket:short exchange:name if_unused:bit nowait:bit
40 21 exchange.delete-ok
40 30 exchange.bind              _ticket:short destination:name source:name routing_key:shortstr nowait:bit
                                 arguments:table
40 31 exchange.bind-ok
40 40 exchange.unbind            _ticket:short destination:name source:name routing_key:shortstr nowait:bit
                                 arguments:table
40 51 exchange.unbind-ok

50 10 queue.declare              _ticket:short queue:name passive:bit durable:bit exclusive:bit auto_delete:bit
                                 nowait:bit arguments:table
50 11 queue.declare-ok           queue:shortstr message_count:long consumer_count:long
50 20 queue.bind                 _ticket:short queue:name exchange:name routing_key:shortstr nowait:bit
                                 arguments:table
50 21 queue.bind-ok
50 30 queue.purge                _ticket:short queue:name nowait:bit
50 31 queue.purge-ok             message_count:long
50 40 queue.delete               _ticket:short queue:name if_unused:bit if_empty:bit nowait:bit
50 41 queue.delete-ok            message_count:long
50 50 queue.unbind               _ticket:short queue:name exchange:name routing_key:shortstr arguments:table
50 51 queue.unbind-ok

60 10 basic.qos                  prefetch_size:long prefetch_count:short global:bit
60 11 basic.qos-ok
60 20 basic.consume              _ticket:short queue:name consumer_tag:shortstr no_local:bit no_ack:bit exclusive:bit
                                 nowait:bit arguments:table
60 21 basic.consume-ok           consumer_tag:shortstr
60 30 basic.cancel               consumer_tag:shortstr nowait:bit
60 31 basic.cancel-ok            consumer_tag:shortstr
60 40 basic.publish              _ticket:short exchange:name routing_key:shortstr mandatory:bit immediate:bit
60 50 basic.return               reply_code:short reply_text:shortstr exchange:shortstr routing_key:shortstr
60 60 basic.deliver              consumer_tag:shortstr delivery_tag:longlong redelivered:bit exchange:shortstr
                                 routing_key:shortstr
60 70 basic.get                  _ticket:short queue:name no_ack:bit
60 71 basic.get-ok               delivery_tag:longlong redelivered:bit exchange:shortstr routing_key:shortstr
                                 message_count:long
60 72 basic.get-empty            _cluster_id:shortstr
60 80 basic.ack                  delivery_tag:longlong multiple:bit
60 90 basic.reject               delivery_tag:longlong requeue:bit
60 100 basic.recover-async       requeue:bit
60 110 basic.recover             requeue:bit
60 111 basic.recover-ok
60 120 basic.nack                delivery_tag:longlong multiple:bit requeue:bit

85 10 confirm.select             nowait:bit
85 11 confirm.select-ok

90 10 tx.select
90 11 tx.select-ok
90 20 tx.commit
90 21 tx.commit-ok
90 30 tx.rollback
90 31 tx.rollback-ok
"""


@final
class Method:
    """A row of the table; `code` is class id and method id as four bytes."""

    __slots__ = ("class_id", "code", "fields", "method_id", "name", "types")

    def __init__(self, class_id: int, method_id: int, name: str, fields: list[str]) -> None:
        self.class_id = class_id
        self.method_id = method_id
        self.name = name
        self.code = class_id.to_bytes(2, "big") + method_id.to_bytes(2, "big")
        self.fields = tuple(field.partition(":")[0] for field in fields)
        self.types = tuple(field.partition(":")[2] for field in fields)

    def decode(self, payload: bytes) -> list[Any]:
        """The values of all fields, in order, from a whole method payload; raises ProtocolViolation."""
        at = 4
        bit = 8
        values: list[Any] = []
        value: Any
        for kind in self.types:
            if kind == "bit":
                if bit == 8:
                    bit = 0
                    at += 1
                    if at > len(payload):
                        raise syntax_error(f"{self.name} is cut off")
                values.append(bool(payload[at - 1] >> bit & 1))
                bit += 1
                continue
            bit = 8
            if kind == "shortstr":
                value, at = decode_short_string(payload, at)
            elif kind == "name":
                value, at = decode_short_string(payload, at)
                value = value.translate(_STRIPPED)
            elif kind == "table":
                value, at = decode_table(payload, at)
            elif kind == "longstr":
                value, at = decode_long_string(payload, at)
            else:
                number = _NUMBERS[kind]
                if at + number.size > len(payload):
                    raise syntax_error(f"{self.name} is cut off")
                value = number.unpack_from(payload, at)[0]
                at += number.size
            values.append(value)
        if at != len(payload):
            raise syntax_error(f"{self.name} is longer than its fields")
        return values

    def encode(self, *values: Any) -> bytes:
        """The method payload with the given values of all fields, in order."""
        assert len(values) == len(self.types), f"{self.name} has {len(self.types)} fields"
        parts = [self.code]
        bit = 8
        for kind, value in zip(self.types, values, strict=True):
            if kind == "bit":
                if bit == 8:
                    bit = 0
                    parts.append(b"\0")
                if value:
                    parts[-1] = bytes((parts[-1][0] | 1 << bit,))
                bit += 1
                continue
            bit = 8
            if kind in ("shortstr", "name"):
                parts.append(encode_short_string(value))
            elif kind == "table":
                parts.append(encode_table(value))
            elif kind == "longstr":
                parts.append(encode_long_string(value))
            else:
                parts.append(_NUMBERS[kind].pack(value))
        return b"".join(parts)


def _read_table() -> list[Method]:
    rows: list[list[str]] = []
    for line in _TABLE.splitlines():
        words = line.split()
        if words and words[0].isdigit():
            rows.append(words)
        elif words:
            rows[-1].extend(words)
    return [Method(int(row[0]), int(row[1]), row[2], row[3:]) for row in rows]


METHODS: Final[dict[str, Method]] = {method.name: method for method in _read_table()}
"""All methods by name."""
BY_CODE: Final[dict[bytes, Method]] = {method.code: method for method in METHODS.values()}
"""All methods by their first four bytes."""


def find_method(payload: bytes) -> Method:
    """The method of a payload; raises ProtocolViolation, or CommandInvalid for one that does not exist."""
    if len(payload) < 4:
        raise syntax_error("method frame is too short")
    method = BY_CODE.get(payload[:4])
    if method is None:
        class_id = int.from_bytes(payload[:2], "big")
        raise CommandInvalid(
            f"unknown method {int.from_bytes(payload[2:4], 'big')} of class {class_id}"
        )
    return method


def encode(name: str, *values: Any) -> bytes:
    """The payload of the method of that name."""
    return METHODS[name].encode(*values)
