from __future__ import annotations

from broker.session.amqp_deadlines import Deadlines


def test_a_login_has_its_time_and_no_more():
    deadlines = Deadlines(100.0, 10.0)
    assert deadlines.next(has_channels=False) == 110.0
    assert not deadlines.is_login_late(109.9) and deadlines.is_login_late(110.0)
    deadlines.enter(105.0, 0.0)
    assert not deadlines.is_login_late(1e9)
    assert deadlines.next(has_channels=True) is None


def test_looks_for_old_deliveries_count_only_with_channels():
    deadlines = Deadlines(0.0, 10.0)
    deadlines.enter(5.0, 40.0)
    assert deadlines.next(has_channels=False) is None
    assert deadlines.next(has_channels=True) == 15.0
    assert not deadlines.is_look_due(14.9) and deadlines.is_look_due(15.0)
    deadlines.look_again(15.0, 40.0)
    assert deadlines.next(has_channels=True) == 25.0


def test_half_the_interval_to_send_and_twice_of_it_to_wait():
    deadlines = Deadlines(0.0, 10.0)
    deadlines.enter(0.0, 0.0)
    deadlines.set_heartbeat(60, 100.0)
    assert deadlines.next(has_channels=False) == 130.0
    deadlines.heartbeat.sent(130.0)
    assert deadlines.next(has_channels=False) == 160.0
    assert deadlines.heartbeat.is_dead(220.0) and not deadlines.heartbeat.is_dead(219.9)


def test_once_the_end_is_announced_only_its_answer_is_awaited():
    deadlines = Deadlines(0.0, 10.0)
    deadlines.set_heartbeat(1, 0.0)
    deadlines.await_end(5.0, 30.0)
    assert deadlines.next(has_channels=False) == 35.0
    assert not deadlines.heartbeat.is_dead(1000.0)
    assert not deadlines.is_end_due(34.9) and deadlines.is_end_due(35.0)
    deadlines.end()
    assert deadlines.next(has_channels=True) is None and not deadlines.is_end_due(1000.0)
