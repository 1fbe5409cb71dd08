"""Decorrelated jitter: within its bounds, growing, begun anew after a stable minute."""

from __future__ import annotations

import random

from broker.link.backoff import Backoff


def test_waits_grow_up_to_the_most():
    backoff = Backoff(1.0, 60.0, random.Random(1))
    waits = [backoff.next_wait() for _ in range(200)]
    assert all(1.0 <= wait <= 60.0 for wait in waits)
    assert waits[0] <= 3.0
    assert max(waits) > 20.0
    assert len(set(waits)) > 50, "no two brokers dial in step"


def test_a_stable_minute_begins_anew():
    backoff = Backoff(1.0, 60.0, random.Random(2))
    while backoff.next_wait() < 30.0:
        pass
    backoff.lasted(59.0)
    assert backoff._wait_seconds >= 30.0
    backoff.lasted(60.0)
    assert backoff.next_wait() <= 3.0
