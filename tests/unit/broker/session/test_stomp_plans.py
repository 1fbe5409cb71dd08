"""Plans of header blocks: a few for each connection, more from one room, which nobody holds for ever."""

import tracemalloc

import pytest

from broker.session.stomp_plans import OWN_MAX, PlanRoom, PlanTable
from broker.wire.stomp import HEADS_MAX
from tests.support.stomp_house import House

SIZE = 900 + 6 * 6 + 80


class Table:
    """A table of a room, and how often it was told to forget."""

    def __init__(self, room):
        self.cleared = 0
        self.table = PlanTable(room, self.note)

    def note(self):
        self.cleared += 1

    def keep(self, *numbers):
        for number in numbers:
            self.table.keep(b"%05d\n" % number, object())

    @property
    def count(self):
        return len(self.table.plans)


def test_a_few_are_free_and_more_are_taken_from_the_room():
    room = PlanRoom(10 * SIZE)
    one, other = Table(room), Table(room)
    one.keep(*range(OWN_MAX))
    assert room.left_bytes == 10 * SIZE
    one.keep(*range(100, 110))
    other.keep(*range(OWN_MAX))
    assert room.left_bytes == 0 and one.count == OWN_MAX + 10 and other.count == OWN_MAX
    one.table.clear()
    assert room.left_bytes == 10 * SIZE and one.count == 0 and one.cleared == 1
    one.table.clear()
    assert room.left_bytes == 10 * SIZE, "twice is once"


def test_who_needs_room_gets_it_from_who_took_it_first():
    room = PlanRoom(100 * SIZE)
    first, second, third = Table(room), Table(room), Table(room)
    first.keep(*range(OWN_MAX + 60))
    second.keep(*range(OWN_MAX + 40))
    third.keep(*range(OWN_MAX * 2 - 1))
    assert (first.cleared, third.count) == (0, OWN_MAX), "not for each that it misses"
    third.keep(1000)
    assert (first.cleared, first.count, second.cleared, third.count) == (1, 0, 0, OWN_MAX + 1)
    third.keep(*range(2000, 2059))
    assert room.left_bytes == 0 and third.count == OWN_MAX + 60


def test_alone_with_more_than_there_is_room_for_some_stay_remembered():
    room = PlanRoom(100 * SIZE)
    one = Table(room)
    hits = 0
    for number in list(range(250)) * 20:
        if b"%05d\n" % number in one.table.plans:
            hits += 1
        else:
            one.keep(number)
        assert one.count <= OWN_MAX + 100
    assert hits > 250 * 20 // 4, "forgetting all when full would leave none"
    one.table.clear()
    assert room.left_bytes == 100 * SIZE


def test_without_room_a_table_begins_anew_with_its_own():
    one = Table(PlanRoom(0))
    one.keep(*range(OWN_MAX * 2 - 1))
    assert (one.count, one.cleared) == (OWN_MAX, 0)
    one.keep(500)
    assert (one.count, one.cleared) == (1, 1)


def test_long_blocks_are_not_remembered():
    one = Table(PlanRoom())
    one.table.keep(bytes(1025), object())
    assert one.count == 0


@pytest.fixture
def room(monkeypatch):
    made = PlanRoom(1 << 20)
    monkeypatch.setattr("broker.session.stomp.SHARED_ROOM", made)
    return made


def sends(numbers):
    return b"".join(
        b"SEND\ndestination:/queue/q%d\nreceipt:%d\n\n%d\0" % (n, n, n) for n in numbers
    )


def test_a_session_with_many_destinations_remembers_all_of_them(room):
    house = House()
    session = house.connect()
    parser = session._parser
    for _ in range(2):
        for start in range(0, 300, 50):
            house.say(sends(range(start, start + 50)))
    assert len(session._member.publisher.plans) == 300
    assert HEADS_MAX < len(parser._heads) <= 300
    for number in range(300):
        queue = house.core.broker.vhosts["/"].queues[f"q{number}"]
        assert [message.body for _, message, _ in queue.peek(9)] == [b"%d" % number] * 2
    session.recheck()
    assert (
        not session._member.publisher.plans and not parser._heads and parser.heads_max == HEADS_MAX
    )
    assert room.left_bytes == 1 << 20


def test_who_goes_gives_back(room):
    house = House()
    session = house.connect()
    house.say(sends(range(100)))
    assert room.left_bytes < 1 << 20
    session.connection_lost("gone")
    assert room.left_bytes == 1 << 20 and not session._parser._heads


@pytest.mark.parametrize(
    "more", ["", "x:" + "y" * 400 + "\n", "".join(f"h{n}:v\n" for n in range(20))]
)
def test_a_plan_takes_no_more_than_is_counted(room, more):
    house = House()
    house.connect()

    def say(first, end):
        for start in range(first, end, 50):
            frames = [
                f"SEND\ndestination:/topic/a\n{more}n:{n}\n\n\0" for n in range(start, start + 50)
            ]
            house.say("".join(frames).encode())

    say(0, 100)
    before = room.left_bytes
    tracemalloc.start()
    try:
        say(100, 300)
        taken_bytes = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    counted_bytes = before - room.left_bytes
    assert counted_bytes / 2 < taken_bytes < counted_bytes * 1.1
