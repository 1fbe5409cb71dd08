"""What one AMQP connection may use; each bound has its answer.  Tests: tests/unit/broker/session/test_amqp_connection.py."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AmqpLimits:
    """Bounds of one AMQP connection.

    A message over `message_bytes_max` closes its channel (406); the other bounds close the connection: login, frames and
    channels as RabbitMQ does, the rest with RESOURCE_ERROR (506).  `held_bytes_max` bounds what is kept of the
    peer's input while a reply waits for the disk.  A delivery that waits longer than `acknowledgement_seconds` closes its
    channel (406); 0 is for ever.
    """

    message_bytes_max: int = 16 << 20
    channels_max: int = 2047
    frame_bytes_max: int = 131072
    handshake_frame_bytes_max: int = 8192
    heartbeat_seconds: int = 60
    acknowledgement_seconds: float = 1800.0
    login_seconds: float = 10.0
    refusal_seconds: float = 3.0
    closing_seconds: float = 10.0
    held_bytes_max: int = 64 << 20
    contents_bytes_max: int = 64 << 20
    channel_consumers_max: int = 10_000
    transaction_bytes_max: int = 64 << 20
    transaction_count_max: int = 65_536
    cached_routes_max: int = 1024
    cached_traits_max: int = 256
    cached_header_bytes_max: int = 512
