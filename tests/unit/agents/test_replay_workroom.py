"""The replay agent without a broker: intake, refusals, restarts, stop."""

import json
import queue
import threading
import time

import pytest

from agents.config import ReplaySettings
from agents.errors import Unavailable
from agents.recordstore.interface import Kind, StoredRecord
from agents.recordstore.sqlite import SqliteRecordStore
from agents.replays import workroom
from agents.replays.control import read_control_message
from agents.replays.ledger import ReplayLedger
from agents.replays.quarantine import Quarantine
from agents.replays.workroom import Workroom
from agents.transport import Incoming
from tests.support.quiet import Stopwatch
from tests.support.waiting import PATIENCE_SECONDS, wait_until

REQUEST = {
    "id": "r1",
    "from": "2016-05-27",
    "to": "2016-05-27",
    "kind": "raw",
    "destination": "/grace.other.raw",
    "control": "amq.direct",
    "control_key": "k",
}


class Broker:
    """All wires of the agent end here."""

    def __init__(self):
        self.published = []
        self.control = queue.SimpleQueue()
        self.acknowledged = queue.SimpleQueue()
        self.on_message = None
        self.hold = threading.Event()
        self.hold.set()
        self.stopped = threading.Event()

    def wire(self, name):
        return Wire(self)

    def send(self, body, redelivered=False):
        headers = {"redelivered": "true"} if redelivered else {}
        self.on_message(Incoming(body, headers, "/grace.site.requests"))

    def hear(self):
        return read_control_message(self.control.get(timeout=PATIENCE_SECONDS))

    def end(self):
        while not (message := self.hear()).is_end:
            pass
        return message


class Wire:
    def __init__(self, broker):
        self.broker = broker

    def start(self):
        pass

    def stop(self):
        self.broker.stopped.set()
        self.broker.hold.set()

    def publish(self, destination, messages, timeout_s):
        if "amq.direct" in destination:
            self.broker.control.put(messages[0].body)
            return
        self.broker.hold.wait(PATIENCE_SECONDS)
        if self.broker.stopped.is_set():
            raise Unavailable("stopped")
        self.broker.published += [(destination, m.body) for m in messages]

    def subscribe(self, destination, prefetch, on_message, headers=None):
        assert destination == "/grace.site.requests"
        self.broker.on_message = on_message

    def acknowledge(self, messages):
        for each in messages:
            self.broker.acknowledged.put(each.body)


@pytest.fixture
def make_room(tmp_path):
    store = SqliteRecordStore(tmp_path / "records.sqlite")
    store.put(
        [
            StoredRecord.of(
                Kind.RAW, f"r{n}", {"EndTime": "2016-05-27T00:00:00Z", "LocalJobId": f"{n}"}
            )
            for n in range(5)
        ]
    )
    rooms = []

    def make(**changes):
        settings = ReplaySettings(requests_max=2, batch_records=2, **changes)
        ledger = ReplayLedger(tmp_path / "requests.sqlite")
        broker = Broker()
        room = Workroom(
            settings, store, store, ledger, Quarantine(tmp_path / "quarantine"), broker.wire
        )
        rooms.append(room)
        room.start()
        return room, broker, ledger

    yield make
    for room in rooms:
        room.stop(PATIENCE_SECONDS)
    store.close()


def body(**changes):
    return json.dumps({**REQUEST, **changes}).encode()


def kept_reasons(tmp_path):
    paths = sorted((tmp_path / "quarantine").glob("*.json"))
    return [json.loads(path.read_text())["reason"] for path in paths]


def test_a_request_is_answered_and_acknowledged(make_room):
    _, broker, _ = make_room()
    broker.send(body())
    end = broker.end()
    assert (end.stage, end.counts.sent, end.counts.expected) == ("finished", 5, 5)
    assert broker.acknowledged.get(timeout=PATIENCE_SECONDS) == body()
    ids = sorted(json.loads(each)["LocalJobId"] for _, each in broker.published)
    assert ids == list("01234")
    assert {name for name, _ in broker.published} == {"/exchange/grace.other.raw"}


def test_asked_again_after_the_end_the_last_word_is_repeated(make_room):
    _, broker, _ = make_room()
    broker.send(body())
    first = broker.end()
    broker.send(body(), redelivered=True)
    assert broker.end() == first
    assert len(broker.published) == 5


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"kind": "nonsense"}, "write raw or summary"),
        ({"filter": {"query": {"fuzzy": {"VOName": "x"}}}}, "fuzzy"),
        ({"filter": {"query": {"query_string": {"query": "VOName:cms~2"}}}}, ""),
        ({"from": "yesterday"}, "ISO 8601"),
    ],
)
def test_refusals_reach_the_sender_and_the_quarantine(make_room, tmp_path, changes, says):
    _, broker, ledger = make_room()
    broker.send(body(**changes))
    end = broker.end()
    assert end.is_error and says in end.message
    assert broker.acknowledged.get(timeout=PATIENCE_SECONDS)
    assert broker.published == []
    assert kept_reasons(tmp_path) == [end.message]
    assert ledger.open_count() == 0 or ledger.open_entries()[0].error == end.message


def test_destinations_may_be_limited(make_room):
    _, broker, _ = make_room(allow_destinations=("grace.site.*",))
    broker.send(body())
    assert "allow-destinations" in broker.end().message
    assert broker.published == []


def test_nonsense_without_a_control_channel_is_kept_with_its_reason(make_room, tmp_path):
    _, broker, _ = make_room()
    for nonsense in (b"{nonsense", b"x" * 200_000):
        broker.send(nonsense)
        assert broker.acknowledged.get(timeout=PATIENCE_SECONDS) == nonsense
    wait_until(lambda: len(kept_reasons(tmp_path)) == 2, "two kept", pause_s=0.005)
    reasons = " ".join(kept_reasons(tmp_path))
    assert "not JSON" in reasons and "at most" in reasons


def test_an_id_used_twice_is_refused(make_room):
    _, broker, _ = make_room()
    broker.send(body())
    broker.end()
    broker.send(body(kind="summary"))
    assert "take a new one" in broker.end().message


def test_too_many_waiting_requests_are_refused(make_room, monkeypatch):
    monkeypatch.setattr(workroom, "OPEN_REQUESTS_MAX", 1)
    _, broker, _ = make_room()
    broker.hold.clear()
    broker.send(body())
    assert broker.hear().stage == "starting"
    broker.send(body(id="r2"))
    assert "ask again later" in broker.end().message
    broker.hold.set()
    assert broker.end().stage == "finished"


def test_a_request_behind_others_hears_that_it_waits_each_time_it_asks(make_room):
    _, broker, _ = make_room()
    broker.hold.clear()
    for number in (1, 2):
        broker.send(body(id=f"r{number}"))
        assert broker.hear().stage == "starting"
    for _ in range(2):
        broker.send(body(id="r3"))
        heard = broker.hear()
        assert (heard.stage, heard.request_id) == ("progress", "r3")
        assert heard.message == "waits for 2 requests before it"
    broker.send(body(id="r1"))
    heard = broker.hear()
    assert (heard.stage, heard.request_id, heard.message) == ("progress", "r1", None)
    broker.hold.set()
    ends = {broker.end().request_id for _ in range(3)}
    assert ends == {"r1", "r2", "r3"}
    assert len(broker.published) == 15


def test_the_same_request_without_an_id_is_done_once_while_it_is_open(make_room):
    _, broker, ledger = make_room()
    broker.hold.clear()
    for _ in range(2):
        broker.send(body(id=None))
    heard = {broker.hear().stage, broker.hear().stage}
    assert heard == {"starting", "progress"}
    assert ledger.open_count() == 1
    broker.hold.set()
    broker.end()
    assert len(broker.published) == 5


def test_what_goes_wrong_with_one_request_leaves_the_intake_alive(make_room, monkeypatch):
    room, broker, ledger = make_room()
    accept = ledger.accept

    def fails(*arguments):
        monkeypatch.setattr(ledger, "accept", accept)
        raise ZeroDivisionError

    monkeypatch.setattr(ledger, "accept", fails)
    broker.send(body(id="r1"))
    broker.send(body(id="r2"))
    assert broker.end().request_id == "r2"


def test_a_stop_half_way_goes_on_at_the_next_start(make_room):
    room, broker, ledger = make_room()
    broker.hold.clear()
    broker.send(body())
    assert broker.hear().stage == "starting"
    watch = Stopwatch()
    room.stop(PATIENCE_SECONDS)
    watch.judge(time.monotonic() - watch.started_at, 1.0)
    assert ledger.open_count() == 1
    _, again, _ = make_room()
    end = again.end()
    assert (end.stage, end.counts.sent, end.counts.expected) == ("finished", 5, 5)
    assert len(broker.published) + len(again.published) == 5
