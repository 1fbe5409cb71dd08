"""What the names of a request are sent to."""

import pytest

from agents.errors import Refused, Unavailable
from agents.replays.destination import (
    addresses_of,
    control_address,
    exchange_address,
    is_allowed,
    says_no_such_name,
    says_nobody_there,
)
from agents.replays.request import ControlChannel


@pytest.mark.parametrize(
    ("destination", "key", "addresses"),
    [
        ("gracc.osg.raw", "", ["/exchange/gracc.osg.raw", "/gracc.osg.raw"]),
        ("/grace.site.raw", "", ["/exchange/grace.site.raw", "/grace.site.raw"]),
        ("data-exchange", "key", ["/exchange/data-exchange/key", "/data-exchange"]),
        ("/queue/mine", "key", ["/queue/mine"]),
        ("/exchange/x", "key", ["/exchange/x/key"]),
        ("/exchange/x/k", "key", ["/exchange/x/k"]),
        ("a/b", "k/1%", ["/exchange/a%2Fb/k%2F1%25", "/a/b"]),
    ],
)
def test_the_exchange_goes_before_the_bare_name(destination, key, addresses):
    assert addresses_of(destination, key) == addresses


def test_control_channels():
    assert control_address(ControlChannel("amq.direct", "k")) == "/exchange/amq.direct/k"
    assert control_address(ControlChannel("", "my-queue")) == "/queue/my-queue"
    assert exchange_address("x", "") == "/exchange/x"


def test_allowed_destinations():
    assert is_allowed("/grace.other.raw", ("grace.*",))
    assert is_allowed("grace.other.raw", ("/grace.*",))
    assert not is_allowed("/exchange/amq.direct", ("grace.*",))
    assert not is_allowed("x", ())
    assert is_allowed("anything", ("*",))


@pytest.mark.parametrize(
    "text",
    [
        "not_found: NOT_FOUND - no exchange 'x' in vhost '/'",
        "no exchange 'x' in vhost '/'",
        "Unknown destination: '/x' is not a valid destination",
    ],
)
def test_texts_of_brokers_about_missing_names(text):
    assert says_no_such_name(Refused(text))
    assert not says_no_such_name(Unavailable("no connection to a broker at 127.0.0.1:1"))


def test_texts_of_brokers_about_nobody_there():
    assert says_nobody_there(Refused("access_refused: write access refused"))
    assert not says_nobody_there(Refused("message too large: 5 bytes, at most 4"))
    assert not says_nobody_there(Unavailable("no connection to a broker at 127.0.0.1:1"))
