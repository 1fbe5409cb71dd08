import pytest

from broker.session.stomp_connect import ConnectRequest, agree
from broker.session.stomp_errors import StompError
from broker.wire.stomp_headers import V10, V11, V12


@pytest.mark.parametrize(
    ("block", "version"),
    [
        (b"", V10),
        (b"accept-version:1.0\n", V10),
        (b"accept-version:1.1,1.0\n", V11),
        (b"accept-version: 1.1 , 1.2\n", V12),
        (b"accept-version:9.9,1.1\n", V11),
    ],
)
def test_versions(block, version):
    assert ConnectRequest(block).version == version


def test_values_are_not_unescaped_and_trimmed_for_1_0_only():
    assert ConnectRequest(b"accept-version:1.2\npasscode: a\\nb\n").passcode == " a\\nb"
    assert ConnectRequest(b"login: guest\n").login == "guest"


@pytest.mark.parametrize("text", [b"", b"1", b"1,2,3", b"-1,0", b"a,b", b"1.5,2", b"99999999999,0"])
def test_heart_beats_of_nonsense(text):
    with pytest.raises(StompError):
        ConnectRequest(b"heart-beat:" + text + b"\n")


def test_agreement():
    assert agree(100, 0) == 0
    assert agree(0, 100) == 0
    assert agree(100, 20) == 100
    assert agree(100, 2500) == 2500
