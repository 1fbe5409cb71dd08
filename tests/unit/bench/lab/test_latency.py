from __future__ import annotations

import random

import pytest

from bench.lab.latency import Latencies, bucket, value


def test_buckets_are_in_order_and_hold_their_values():
    last = -1
    for number in [*range(3000), 10**5, 10**6, 10**9]:
        found = bucket(number)
        assert found >= last
        last = found
        assert number <= value(found) <= number * 1.016 + 1


def test_percentiles_are_right_to_two_percent():
    chance = random.Random(3)
    values = sorted(int(chance.expovariate(1 / 30_000)) for _ in range(20_000))
    latencies = Latencies()
    for one in values:
        latencies.add(one, 1)
    for share in (50, 90, 99, 99.9):
        exact = values[min(len(values) - 1, int(len(values) * share / 100))] / 1000
        assert latencies.percentile_ms(share) == pytest.approx(exact, rel=0.02)


def test_latencies_travel_as_json_and_add_up():
    one = Latencies()
    one.add(1000, 3)
    other = Latencies.load(one.take())
    assert one.percentile_ms(50) == 0.0
    other.merge(Latencies({bucket(9000): 1}))
    assert other.percentile_ms(50) == pytest.approx(1.0, rel=0.02)
    assert other.percentile_ms(100) == pytest.approx(9.0, rel=0.02)
