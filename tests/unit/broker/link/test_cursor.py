"""Cursors and histories, kept and restored."""

from __future__ import annotations

import json

from broker.link import cursor
from broker.link.cursor import CursorTable, History

A = b"a" * 16


def test_a_cursor_is_kept_with_its_claim():
    table, kept = CursorTable(), {}
    one = table.cursor(A, 7, is_shared=False)
    one.claim, one.position = "c1", 41
    table.write(one, kept.__setitem__)
    other = table.cursor(A, 8, is_shared=True)
    other.claim = "c1"
    other.applied.add(3, 6)
    table.write(other, kept.__setitem__)
    again = CursorTable()
    again.restore(kept)
    assert again.cursor(A, 7, is_shared=False).statement() == ["c1", 41, []]
    assert again.cursor(A, 8, is_shared=True).statement() == ["c1", -1, [3, 3]]
    assert again.cursor(A, 7, is_shared=True).statement() == ["", -1, []], "another kind of queue"


def test_cursors_are_bounded(monkeypatch):
    monkeypatch.setattr(cursor, "CURSORS_MAX", 3)
    table, kept = CursorTable(), {}
    for lane in range(5):
        table.write(table.cursor(A, lane, is_shared=False), kept.__setitem__)
        table.write(table.cursor(A, 0, is_shared=False), kept.__setitem__)
    lanes = {json.loads(key)[2] for key, value in kept.items() if value is not None}
    assert lanes == {0, 3, 4}, "one that is in use stays"


def test_a_history_knows_what_was_given_under_each_claim():
    history = History()
    history.begin("c1", [0])
    history.begin("c2", [10])
    history.begin("c3", [10])
    assert history.has("c1", {0: 9})
    assert not history.has("c1", {0: 10}), "c2 began there"
    assert history.has("c2", {0: 9}), "older ones may be sent under it"
    assert not history.has("c2", {0: 10})
    assert history.has("c3", {0: 5000})
    assert not history.has("c4", {0: 0})
    assert not history.has("c1", {1: 0}), "a lane that is not there"


def test_a_history_is_bounded():
    history = History()
    for number in range(cursor.CLAIMS_MAX + 5):
        history.begin(f"c{number}", [number])
    assert len(history.claims) == cursor.CLAIMS_MAX
    assert not history.has("c0", {0: 0})
