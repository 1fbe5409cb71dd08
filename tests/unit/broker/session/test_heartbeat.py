"""Heart-beats: what is due when, and who is dead."""

from __future__ import annotations

from broker.session.heartbeat import Heartbeat


def test_sending_is_due_after_silence_of_ours_only() -> None:
    beat = Heartbeat(10.0, 0.0, 100.0)
    assert not beat.is_due(109.9)
    assert beat.is_due(110.0)
    beat.sent(110.0)
    assert not beat.is_due(119.0)
    assert not beat.is_dead(1e9)


def test_a_peer_is_dead_after_its_silence() -> None:
    beat = Heartbeat(0.0, 40.0, 100.0)
    assert not beat.is_dead(139.9)
    beat.heard(139.9)
    assert not beat.is_dead(140.0)
    assert beat.is_dead(179.9)
    assert not beat.is_due(1e9)


def test_the_deadline_is_the_earlier_of_both() -> None:
    beat = Heartbeat(10.0, 40.0, 100.0)
    assert beat.next_deadline() == 110.0
    beat.sent(135.0)
    assert beat.next_deadline() == 140.0
    assert Heartbeat(0.0, 0.0, 100.0).next_deadline() is None


def test_nothing_is_missed_by_waking_at_the_deadline() -> None:
    beat = Heartbeat(0.1, 0.3, 0.7)
    while not beat.is_dead(now := beat.next_deadline() or 0.0):
        assert beat.is_due(now)
        beat.sent(now)
    assert now >= 1.0
