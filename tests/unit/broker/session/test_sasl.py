from __future__ import annotations

import pytest

from broker.errors import AccessRefused, BrokerError
from broker.session import dn, sasl
from broker.wire.amqp.values import encode_table

CERTIFICATE = dn.parse("/DC=ch/CN=me")


def test_external_is_offered_to_who_has_shown_a_certificate():
    assert sasl.offered(None) == ("PLAIN", "AMQPLAIN")
    assert sasl.offered(CERTIFICATE) == ("PLAIN", "AMQPLAIN", "EXTERNAL")


def test_plain():
    assert sasl.read("PLAIN", b"\0ann\0p\xc3\xa4ss", None) == sasl.PasswordLogin("ann", "päss")
    assert sasl.read("PLAIN", b"other\0ann\0x", None) == sasl.PasswordLogin("ann", "x")
    for wrong in (b"", b"ann", b"\0ann", b"\0ann\0x\0y"):
        with pytest.raises(AccessRefused):
            sasl.read("PLAIN", wrong, None)


def test_amqplain():
    table = encode_table({"LOGIN": "ann", "PASSWORD": "x"})[4:]
    assert sasl.read("AMQPLAIN", table, None) == sasl.PasswordLogin("ann", "x")
    with pytest.raises(AccessRefused, match="missing LOGIN or PASSWORD"):
        sasl.read("AMQPLAIN", encode_table({"LOGIN": "ann"})[4:], None)
    with pytest.raises(BrokerError):
        sasl.read("AMQPLAIN", b"\x05LOG", None)


@pytest.mark.parametrize("response", [b"", b"\0*\0*", b"someone"])
def test_external_counts_the_certificate_only(response):
    assert sasl.read("EXTERNAL", response, CERTIFICATE) == sasl.CertificateLogin(CERTIFICATE)
    with pytest.raises(AccessRefused):
        sasl.read("EXTERNAL", response, None)


def test_a_long_login_is_refused_before_it_is_read():
    with pytest.raises(AccessRefused, match="too long"):
        sasl.read("PLAIN", b"\0a\0" + b"x" * 5000, None)


def test_a_password_is_in_no_text():
    login = sasl.PasswordLogin("ann", "s3cret")
    assert "s3cret" not in repr(login) + str(login) + f"{[login]}"
