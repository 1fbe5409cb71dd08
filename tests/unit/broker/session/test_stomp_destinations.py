import pytest

from broker.core.destination import Destination
from broker.session.stomp_destinations import is_true, queue_arguments, read_name, write_name
from broker.session.stomp_errors import StompError
from tests.support.core import Core


@pytest.fixture
def vhost():
    return Core().vhost


@pytest.mark.parametrize(
    ("text", "kind", "name", "key"),
    [
        ("/queue/a", "queue", "a", ""),
        ("/queue/a%2Fb%25%20c", "queue", "a/b% c", ""),
        ("/exchange/e/k.1", "exchange", "e", "k.1"),
        ("/exchange/e", "exchange", "e", ""),
        ("/topic/a.*.#", "topic", "amq.topic", "a.*.#"),
        ("/amq/queue/q", "amq/queue", "q", ""),
        ("/temp-queue/t", "temp-queue", "t", ""),
        ("/reply-queue/amq.gen-1", "reply-queue", "amq.gen-1", ""),
        ("/gracc.x.raw", "exchange", "gracc.x.raw", ""),
        ("grace.x.raw", "queue", "grace.x.raw", ""),
    ],
)
def test_read(vhost, text, kind, name, key):
    read = read_name(text, vhost)
    assert (read.kind, read.name, read.key) == (kind, name, key)


@pytest.mark.parametrize(
    "text",
    [
        "/queue/",
        "/queue/a/b",
        "/exchange/",
        "/exchange/a/b/c",
        "/topic/",
        "/queue/%FF",
        "/queue/" + "x" * 256,
    ],
)
def test_invalid(vhost, text):
    with pytest.raises(StompError) as caught:
        read_name(text, vhost)
    assert caught.value.message == "Invalid destination"


@pytest.mark.parametrize("text", ["", "/", "queue", "/queues/a", "/dsub/a"])
def test_unknown_lists_what_there_is(vhost, text):
    with pytest.raises(StompError) as caught:
        read_name(text, vhost)
    assert caught.value.message == "Unknown destination"
    assert "/gracc.*.raw" in caught.value.body and "/exchange" in caught.value.body


@pytest.mark.parametrize(
    ("exchange", "key", "text"),
    [
        ("", "a", b"/queue/a"),
        ("", "a/b%:", b"/queue/a%2Fb%25\\c"),
        ("", "a\nb", b"/queue/a%0Ab"),
        ("amq.topic", "k", b"/topic/k"),
        ("e", "k", b"/exchange/e/k"),
        ("", "grace.x.raw", b"/grace.x.raw"),
        ("gracc.x.raw", "", b"/gracc.x.raw"),
        ("gracc.x.raw", "k", b"/exchange/gracc.x.raw/k"),
        ("grace.x.raw", "", b"/exchange/grace.x.raw"),
    ],
)
def test_write(vhost, exchange, key, text):
    destination = Destination(exchange, key)
    assert write_name(destination, vhost) == text
    assert destination.stomp_name == text


def test_queue_arguments_have_types():
    headers = {
        "x-message-ttl": "5",
        "x-overflow": "reject-publish",
        "x-single-active-consumer": "true",
        "x-foo": "1",
    }
    assert queue_arguments(headers) == {
        "x-message-ttl": 5,
        "x-overflow": "reject-publish",
        "x-single-active-consumer": True,
    }


def test_claims():
    assert is_true({"a": " True "}, "a", default=False)
    assert is_true({}, "a", default=True)
    with pytest.raises(StompError):
        is_true({"a": "1"}, "a", default=False)
