"""broker.management.letters: dead letters listed, sent back, removed; none lost on the way."""

from __future__ import annotations

import pytest

from broker.management import api
from tests.support.management import Management


@pytest.fixture
def management():
    made = Management()
    made.core.vhost.declare_queue("work", durable=True)
    made.core.vhost.declare_queue("other", durable=True)
    return made


def kill(management, *texts, queue="work", cause="it is bad"):
    """Have messages die by a consumer's refusal."""
    for text in texts:
        management.core.publish("", queue, text.encode(), delivery_mode=2)
    subscription, sink = management.core.subscribe(queue)
    management.core.turn()
    management.core.broker.reject(sink.taken, cause)
    management.core.vhost.unsubscribe(subscription)
    management.core.turn()


def listed(management, query=""):
    return management.ask("GET", f"/api/deadletters/%2F/dead-letter{query}").json


def depth(management, queue):
    return management.core.vhost.queues[queue].depth


def test_before_the_first_there_are_none(management):
    assert listed(management)["messages"] == 0
    assert management.ask("POST", "/api/deadletters/%2F/dead-letter/redrive", {}).status == 404


def test_reasons_are_listed(management):
    kill(management, "a", "b")
    found = listed(management)
    assert (found["messages"], found["reasons"]) == (2, {"rejected": 2})
    letter = found["letters"][0]
    assert (letter["reason"], letter["cause"], letter["queue"]) == ("rejected", "it is bad", "work")
    assert letter["deaths"] == 1
    assert listed(management, "?reason=expired")["letters"] == []
    assert len(listed(management, "?count=1")["letters"]) == 1


def test_one_letter_is_shown_in_full_however_large_the_others_are(management, monkeypatch):
    kill(management, "a" * 2000, "b")
    monkeypatch.setattr(api, "ANSWER_BYTES_MAX", 1500)
    assert management.ask("GET", "/api/deadletters/%2F/dead-letter/1").json["payload"] == "b"
    assert management.ask("GET", "/api/deadletters/%2F/dead-letter/7").status == 404


def test_redrive_sends_back_clean_and_counts(management):
    kill(management, "a", "b")
    answer = management.ask("POST", "/api/deadletters/%2F/dead-letter/redrive", {})
    assert answer.json == {"redriven": 2, "unroutable": 0, "left": 0}
    rows = management.ask("POST", "/api/queues/%2F/work/get", {"count": 9}).json
    assert [row["payload"] for row in rows] == ["a", "b"]
    assert rows[0]["properties"]["headers"] == {"x-gridmsg-redriven": 1}
    assert rows[0]["properties"]["delivery_mode"] == 2


def test_redrive_is_one_unit(management):
    kill(management, "a", "b", "c")
    management.ask("POST", "/api/deadletters/%2F/dead-letter/redrive", {"count": 2})
    unit = management.core.broker.unit
    assert len(unit.published) == len(unit.acknowledged) == 2
    assert depth(management, "dead-letter") == 1


def test_redrive_takes_only_what_fits_and_keeps_the_order_of_the_rest(management):
    kill(management, "a", queue="work")
    kill(management, "b", queue="other")
    kill(management, "c", queue="work")
    path = "/api/deadletters/%2F/dead-letter/redrive"
    assert management.ask("POST", path, {"queue": "other"}).json["redriven"] == 1
    left = management.ask("POST", "/api/queues/%2F/dead-letter/get", {"count": 9}).json
    assert [row["payload"] for row in left] == ["a", "c"]
    assert [row["redelivered"] for row in left] == [False, False]


def test_looking_through_a_queue_never_uses_up_its_delivery_limit(management):
    kill(management, "a")
    path = "/api/deadletters/%2F/dead-letter/redrive"
    for _ in range(50):
        assert management.ask("POST", path, {"reason": "nothing"}).json["redriven"] == 0
        management.core.turn()
    assert depth(management, "dead-letter") == 1


def test_redrive_to_another_queue_and_by_position(management):
    kill(management, "a", "b")
    position = listed(management)["letters"][1]["position"]
    path = "/api/deadletters/%2F/dead-letter/redrive"
    body = {"to": "other", "position": position}
    assert management.ask("POST", path, body).json["redriven"] == 1
    rows = management.ask("POST", "/api/queues/%2F/other/get", {"count": 9}).json
    assert [row["payload"] for row in rows] == ["b"]


def test_letters_whose_queue_is_gone_stay(management):
    kill(management, "a")
    management.core.vhost.delete_queue("work")
    answer = management.ask("POST", "/api/deadletters/%2F/dead-letter/redrive", {}).json
    assert answer == {"redriven": 0, "unroutable": 1, "left": 1}


def test_unroutable_letters_go_back_to_their_exchange_once_something_is_bound(management):
    vhost = management.core.vhost
    vhost.declare_exchange("gracc.site.raw", "fanout", durable=True)
    management.core.publish("gracc.site.raw", "k", b"lost", delivery_mode=2)
    management.core.turn()
    assert listed(management)["reasons"] == {"unroutable": 1}
    path = "/api/deadletters/%2F/dead-letter/redrive"
    assert management.ask("POST", path, {}).json["unroutable"] == 1
    vhost.bind_queue("work", "gracc.site.raw", "")
    assert management.ask("POST", path, {}).json["redriven"] == 1
    assert depth(management, "work") == 1


def test_purge_removes_what_fits(management):
    kill(management, "a")
    kill(management, "b", queue="other")
    path = "/api/deadletters/%2F/dead-letter/purge"
    assert management.ask("POST", path, {"queue": "work"}).json == {"purged": 1, "left": 1}
    assert management.ask("POST", path, {}).json == {"purged": 1, "left": 0}
