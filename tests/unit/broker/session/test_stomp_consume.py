import pytest

from broker.session.stomp_connect import StompLimits
from broker.session.stomp_consume import SubscribeRequest, durable_name
from broker.session.stomp_errors import StompError

LIMITS = StompLimits(prefetch_default=7, prefetch_max=50)


@pytest.mark.parametrize(
    ("headers", "prefetch"),
    [
        ({}, 7),
        ({"prefetch-count": "3"}, 3),
        ({"activemq.prefetchSize": "4"}, 4),
        ({"prefetch": "5"}, 5),
        ({"prefetch-count": "0"}, 50),
        ({"prefetch-count": "1000"}, 50),
    ],
)
def test_prefetch(headers, prefetch):
    assert SubscribeRequest(headers, LIMITS).prefetch == prefetch


@pytest.mark.parametrize(
    "headers",
    [{"prefetch-count": "-1"}, {"ack": "no"}, {"x-priority": "high"}, {"activemq.exclusive": "?"}],
)
def test_nonsense(headers):
    with pytest.raises(StompError):
        SubscribeRequest(headers, LIMITS)


def test_selector_and_browser_are_read():
    request = SubscribeRequest({"selector": "a = 1", "browser": "true"}, LIMITS)
    assert request.selector is not None and request.is_browser
    assert SubscribeRequest({"selector": " ", "browser": "false"}, LIMITS).selector is None
    with pytest.raises(StompError) as caught:
        SubscribeRequest({"selector": "a ="}, LIMITS)
    assert caught.value.message == "Invalid selector"


def test_priority_may_be_negative():
    assert SubscribeRequest({"x-priority": "-5"}, LIMITS).priority == -5


def test_durable_names_are_stable_and_distinct():
    by_id = {"durable": "true", "id": "1"}
    assert durable_name(by_id, "/topic/a", "") == durable_name(by_id, "/topic/a", "other")
    assert durable_name({"persistent": "true", "id": "1"}, "/topic/a", "") == durable_name(
        by_id, "/topic/a", ""
    )
    assert durable_name(by_id, "/topic/b", "") != durable_name(by_id, "/topic/a", "")
    by_name = {"activemq.subscriptionName": "s"}
    assert durable_name(by_name, "/topic/a", "c") == durable_name(by_name, "/topic/b", "c")
    assert durable_name(by_name, "/topic/a", "c") != durable_name(by_name, "/topic/a", "d")
    assert durable_name({"id": "1"}, "/topic/a", "") == ""
