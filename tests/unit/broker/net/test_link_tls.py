"""What a dialed link says of a TLS connection that failed."""

from __future__ import annotations

import pytest
from OpenSSL import SSL

from broker.link.settings import LinkTls
from broker.net.link_tls import FarSide, secured_client


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ("tlsv1 alert unknown ca", "its [tls] ca must have it"),
        ("tls alert certificate expired", "renew it"),
        ("tlsv13 alert certificate required", "name certificate and key of this link"),
        ("wrong version number", "does not speak TLS"),
        ("something else", "something else"),
    ],
)
def test_openssl_texts_become_advice(raw: str, said: str):
    found = FarSide(LinkTls(), "localhost").explain(SSL.Error([("SSL routines", "", raw)]))
    assert said in found


@pytest.mark.parametrize(
    "error", [SSL.ZeroReturnError(), SSL.SysCallError(104, "reset"), OSError()]
)
def test_an_end_needs_no_advice(error: Exception):
    assert FarSide(LinkTls(), "localhost").explain(error) == ""


def test_files_that_are_no_good_are_named(tmp_path):
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    for tls in (
        LinkTls(ca=str(tmp_path / "none.pem")),
        LinkTls(ca=str(empty)),
        LinkTls(certificate=str(empty), key=str(empty)),
    ):
        with pytest.raises(ValueError, match=r"(none|empty)\.pem: [Nn]o"):
            secured_client(tls, "localhost", None)
