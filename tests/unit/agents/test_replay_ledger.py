"""The ledger of replays: durable, the same request once, states in order."""

import pytest

from agents.replays.ledger import (
    ENDED_KEPT_MAX,
    IdTaken,
    LedgerError,
    ReplayLedger,
    State,
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "requests.sqlite"


@pytest.fixture
def ledger(path):
    ledger = ReplayLedger(path)
    yield ledger
    ledger.close()


def test_progress_is_there_after_a_restart(path, ledger):
    entry, is_new = ledger.accept(b"body", "r1", False, 123)
    assert is_new and entry.state == State.ACCEPTED and entry.accepted_ms == 123
    entry.counts.expected = 9
    ledger.move(entry, State.RUNNING)
    entry.cursor, entry.address, entry.counts.sent = "5,x", "/queue/q", 4
    entry.counts.first_end_time = "2016-05-10T00:00:00Z"
    ledger.move(entry, State.RUNNING)
    again = ReplayLedger(path)
    assert again.open_entries() == [entry]
    assert again.find("r1") == entry
    again.close()


def test_a_redelivered_request_is_the_same(ledger):
    first, _ = ledger.accept(b"body", None, False, 1)
    second, is_new = ledger.accept(b"body", None, True, 2)
    assert not is_new and second.number == first.number


def test_the_same_body_sent_again_after_the_end_is_another_request(ledger):
    first, _ = ledger.accept(b"body", None, False, 1)
    assert ledger.accept(b"body", None, False, 1) == (first, False), "a broker was killed, say"
    ledger.move(first, State.FAILING)
    ledger.move(first, State.FAILED)
    second, is_new = ledger.accept(b"body", None, False, 2)
    assert is_new and second.request_id != first.request_id


def test_an_id_belongs_to_one_request(ledger):
    ledger.accept(b"body", "r1", False, 1)
    assert not ledger.accept(b"body", "r1", False, 2)[1]
    with pytest.raises(IdTaken, match="take a new one"):
        ledger.accept(b"other", "r1", False, 3)


def test_states_move_along_their_table_only(ledger):
    entry, _ = ledger.accept(b"body", None, False, 1)
    with pytest.raises(AssertionError, match="accepted to finished"):
        ledger.move(entry, State.FINISHED)
    for state in (State.RUNNING, State.FINISHING, State.FINISHED):
        ledger.move(entry, state)
    assert ledger.open_count() == 0
    with pytest.raises(AssertionError):
        ledger.move(entry, State.RUNNING)


def test_only_ended_requests_are_forgotten(ledger, monkeypatch):
    monkeypatch.setattr("agents.replays.ledger.ENDED_KEPT_MAX", 2)
    assert ENDED_KEPT_MAX > 2
    kept, _ = ledger.accept(b"open", None, False, 1)
    for number in range(4):
        entry, _ = ledger.accept(b"%d" % number, f"e{number}", False, 1)
        ledger.move(entry, State.FAILING)
        ledger.move(entry, State.FAILED)
    assert ledger.forget_old() == 2
    assert ledger.find("e1") is None and ledger.find("e3") is not None
    assert [entry.number for entry in ledger.open_entries()] == [kept.number]


def test_a_file_that_is_no_ledger_is_refused(path):
    path.write_bytes(b"not a database at all, but some text" * 100)
    with pytest.raises(LedgerError, match=r"requests\.sqlite"):
        ReplayLedger(path)


def test_a_newer_ledger_is_refused(path, ledger):
    ledger._file._database.execute("PRAGMA user_version=9")
    with pytest.raises(LedgerError, match="version 9"):
        ReplayLedger(path)


def test_failures_of_the_disk_are_told_as_such(ledger):
    entry, _ = ledger.accept(b"body", None, False, 1)
    ledger._file._database.execute("PRAGMA query_only=1")
    with pytest.raises(LedgerError):
        ledger.move(entry, State.RUNNING)
    assert entry.state == State.ACCEPTED
