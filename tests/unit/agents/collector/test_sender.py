from __future__ import annotations

import pytest

from agents.collector.quarantine import Quarantine
from agents.collector.sender import Sender
from agents.errors import Refused, Unavailable
from agents.outbox import Outbox


class Broker:
    """A publisher whose answers are set by the test."""

    def __init__(self):
        self.connected = True
        self.taken = []
        self.refuses = lambda body: False
        self.is_silent = False

    def is_connected(self):
        return self.connected

    def publish(self, destination, messages, timeout_s):
        if self.is_silent:
            raise Unavailable("not confirmed")
        if any(self.refuses(message.body) for message in messages):
            raise Refused("message too large")
        self.taken += [message.body for message in messages]


@pytest.fixture
def broker():
    return Broker()


@pytest.fixture
def outbox(tmp_path):
    return Outbox(tmp_path / "spool", 1_000_000, 3)


@pytest.fixture
def quarantine(tmp_path):
    return Quarantine(tmp_path / "quarantine", 10)


@pytest.fixture
def sender(broker, outbox, quarantine):
    return Sender(broker, outbox, quarantine, "/gracc.site.raw", 1.0)


def step(sender):
    """Do what the thread does in one round, without the thread."""
    parcels = sender._next_parcels()
    if parcels:
        sender._send(parcels)
    sender._drain_one()


def submit(sender, *bodies):
    answers = []
    sender.submit(list(bodies), answers.append)
    return answers


def test_parcels_are_joined_and_each_is_answered(sender, broker, outbox):
    first, second = submit(sender, b"1", b"2"), submit(sender, b"3")
    step(sender)
    assert broker.taken == [b"1", b"2", b"3"] and first == second == [None]
    assert outbox.file_count == 0 and sender.published_count == 3


@pytest.mark.parametrize("how", ["away", "silent"])
def test_while_the_broker_is_away_the_spool_answers_and_drains_in_order(
    how, sender, broker, outbox
):
    broker.connected = how != "away"
    broker.is_silent = how == "silent"
    answers = []
    for body in (b"1", b"2"):
        answers += submit(sender, body)
        step(sender)
    answers += submit(sender, b"3")
    step(sender)
    assert outbox.file_count == 3
    broker.connected, broker.is_silent = True, False
    for _ in range(3):
        step(sender)
    assert broker.taken == [b"1", b"2", b"3"] and outbox.file_count == 0
    assert sender.drained_count == 3


def test_when_the_spool_is_full_the_sender_is_told(sender, broker):
    broker.connected = False
    for body in (b"1", b"2", b"3"):
        assert submit(sender, body) == []
        step(sender)
    answers = submit(sender, b"4")
    step(sender)
    assert len(answers) == 1 and "bound" in answers[0]


def test_joined_parcels_that_do_not_fit_together_are_tried_alone(
    sender, broker, tmp_path, quarantine
):
    broker.connected = False
    small = Sender(broker, Outbox(tmp_path / "s", 400, 9), quarantine, "/d", 1.0)
    big, little = submit(small, b"x" * 500), submit(small, b"y")
    step(small)
    assert little == [None] and "bound" in big[0]


def test_a_message_refused_by_itself_goes_to_quarantine_and_holds_up_nobody(
    sender, broker, outbox, quarantine
):
    submit(sender, b"before")
    step(sender)
    broker.refuses = lambda body: body == b"bad"
    answers = submit(sender, b"1", b"bad", b"2")
    step(sender)
    assert answers == [None] and outbox.file_count == 1
    sender._refused_until = 0.0
    step(sender)
    assert outbox.file_count == 0 and quarantine.file_count == 1
    assert set(broker.taken) == {b"before", b"1", b"2"}


def test_when_everything_is_refused_the_spool_waits(sender, broker, outbox, quarantine):
    broker.refuses = lambda body: True
    answers = submit(sender, *[b"%d" % number for number in range(40)])
    step(sender)
    sender._refused_until = 0.0
    step(sender)
    assert answers == [None] and outbox.file_count == 1 and quarantine.file_count == 0
    assert not sender._may_publish(), "it does not try again at once"


def test_a_single_refused_message_waits_until_others_pass(sender, broker, outbox, quarantine):
    broker.refuses = lambda body: True
    submit(sender, b"1")
    step(sender)
    sender._refused_until = 0.0
    step(sender)
    assert outbox.file_count == 1 and quarantine.file_count == 0


def test_the_thread_stops_with_everything_answered(sender, broker, outbox):
    answers = submit(sender, b"1")
    sender.start()
    sender.stop(5.0)
    assert answers == [None] and (broker.taken == [b"1"] or outbox.file_count == 1)
    assert submit(sender, b"2") == ["the collector is stopping"]


def test_a_full_spool_is_logged_once_until_it_is_over(sender, broker, outbox, caplog):
    broker.connected = False
    for _ in range(3):
        submit(sender, b"kept")
        step(sender)
    refused = [submit(sender, b"more") for _ in range(4)]
    for _ in refused:
        step(sender)
    assert all("its bound" in answer for (answer,) in refused)
    assert [r.levelname for r in caplog.records if "refused" in r.message] == ["ERROR"]
    outbox.remove(outbox.oldest())
    assert submit(sender, b"again") == []
    step(sender)
    assert sum("again" in r.message for r in caplog.records) == 1


def test_a_batch_that_stays_in_the_spool_does_not_go_out_all_the_time(
    sender, broker, outbox, tmp_path
):
    sender._quarantine = Quarantine(tmp_path / "full", 0)
    submit(sender, b"before")
    step(sender)
    broker.refuses = lambda body: body == b"bad"
    submit(sender, b"1", b"bad")
    step(sender)
    sender._refused_until = 0.0
    step(sender)
    taken = list(broker.taken)
    assert outbox.file_count == 1
    step(sender)
    assert broker.taken == taken, "it waits until somebody has looked"


def test_a_spool_file_that_cannot_be_removed_makes_the_thread_pause(
    sender, broker, outbox, monkeypatch
):
    broker.connected = False
    submit(sender, b"1")
    step(sender)
    broker.connected = True

    def fail(batch):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(outbox, "remove", fail)
    sender.start()
    while sender._drain_from == 0.0:
        pass
    sender.stop(5.0)
    assert broker.taken == [b"1"]
