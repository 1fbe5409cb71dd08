"""Traces, and what is remembered of each origin."""

from __future__ import annotations

import random
from typing import Any

from broker.link import trace
from broker.link.trace import (
    NO_ORIGIN,
    OriginTable,
    has_been_at,
    hop_count,
    is_sound,
    origin,
    origin_of,
    route_of,
)

A, B, C = (bytes([number]) * 16 for number in (1, 2, 3))


def test_a_trace_tells_origin_and_route():
    made = origin(A, 70_000) + B + C
    assert origin_of(made) == (A, 70_000)
    assert (hop_count(made), route_of(made)) == (2, [B, C])
    assert has_been_at(made, B)
    assert not has_been_at(made, A), "the origin is an opening, not a broker"
    assert origin_of(NO_ORIGIN + B) is None
    assert origin_of(b"") is None
    assert hop_count(b"") == 0


def test_ids_across_a_border_do_not_count():
    one, other = bytes(8) + b"x" * 8, b"y" * 16
    made = origin(A, 1) + other[:16] + one
    assert not has_been_at(made, other[8:] + one[:8])


def test_soundness():
    assert is_sound(b"")
    assert is_sound(origin(A, 1))
    assert is_sound(origin(A, 1) + B)
    assert not is_sound(origin(A, 1)[:-1])
    assert not is_sound(origin(A, 1) + B[:-1])
    assert not is_sound(origin(A, 1) + B * 256)


class Kept(dict[str, Any]):
    def define(self, key: str, value: dict[str, Any] | None) -> None:
        if value is None:
            self.pop(key, None)
        else:
            self[key] = value


def test_the_table_against_a_set_over_restarts(monkeypatch):
    monkeypatch.setattr(trace, "WINDOW", 8192)
    draw = random.Random(5)
    table, kept = OriginTable(), Kept()
    seen: set[int] = set()
    highest = -1
    for _ in range(3000):
        sequence = max(0, highest + draw.randrange(-3000, 40))
        verdict = table.apply(A, sequence)
        if sequence <= highest - 8192:
            assert verdict == "unknown"
        else:
            assert verdict == ("repeat" if sequence in seen else "new")
        seen.add(sequence)
        highest = max(highest, sequence)
        if draw.random() < 0.02:
            table.flush(kept.define)
        if draw.random() < 0.005:
            table.flush(kept.define)
            table = OriginTable()
            table.restore(kept)


def test_a_full_piece_is_kept_without_its_bits():
    table, kept = OriginTable(), Kept()
    for sequence in range(4096):
        table.apply(A, sequence)
    table.flush(kept.define)
    assert list(kept.values()) == [{}]
    again = OriginTable()
    again.restore(kept)
    assert again.apply(A, 4095) == "repeat"
    assert again.apply(A, 4096) == "new"


def test_the_origin_silent_longest_is_forgotten_first(monkeypatch):
    monkeypatch.setattr(trace, "ORIGINS_MAX", 2)
    table, kept = OriginTable(), Kept()
    for one in (A, B, A, C):
        table.apply(one, len(kept))
        table.flush(kept.define)
    assert set(table._windows) == {A, C}
    assert table.forgotten_count == 1
    assert not [key for key in kept if B.hex() in key]


def test_what_could_not_be_applied_may_come_again():
    table = OriginTable()
    assert table.apply(A, 5) == "new"
    table.withdraw(A, 5)
    assert table.apply(A, 5) == "new"
    assert table.apply(A, 5) == "repeat"


def test_how_far_back_and_how_much_memory(monkeypatch):
    monkeypatch.setattr(trace, "WINDOW", 8192)
    table = OriginTable()
    for sequence in range(5000):
        table.apply(A, sequence)
    assert table.take_behind() == 0
    assert table.apply(A, 1000) == "repeat"
    table.apply(A, 4000)
    assert table.take_behind() == 3999
    assert table.take_behind() == 0
    table.apply(A, 20_000)
    assert table.apply(A, 5) == "unknown"
    assert table.take_behind() >= 8192
    told = table.describe()
    assert (told["count"], told["bytes"], told["unknown"]) == (1, 3 * 512, 1)
    assert told["bytes_max"] == trace.ORIGINS_MAX * 3 * 512
