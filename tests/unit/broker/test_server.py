"""What the composition root says of its listeners; the rest of it is tested with real processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.config import Listener
from broker.net.tls_files import TlsFiles
from broker.sections import LimitsSection
from broker.server import warn_of_clear_text

TLS = TlsFiles(Path("host.pem"), Path("host.key"))


@pytest.mark.parametrize(
    ("host", "tls", "is_told"),
    [
        ("127.0.0.1", None, False),
        ("127.0.0.2", None, False),
        ("::1", None, False),
        ("0.0.0.0", None, True),  # noqa: S104 - told, not listened on
        ("192.0.2.7", None, True),
        ("::", None, True),
        ("0.0.0.0", TLS, False),  # noqa: S104
    ],
)
def test_passwords_in_the_clear_are_told(host, tls, is_told, caplog):
    warn_of_clear_text(Listener("amqp", host, 5672, 10, LimitsSection(), tls), host)
    assert (f"amqp on {host}:5672 is open to other machines" in caplog.text) is is_told
