"""STOMP 1.0, 1.1 and 1.2 frames ↔ bytes.

Tests: tests/unit/broker/wire/test_stomp.py.
"""

from __future__ import annotations

from broker.wire.stomp_properties import decode_properties, encode_properties

__all__ = ["decode_properties", "encode_properties"]
