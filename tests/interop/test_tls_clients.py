"""Clients of other languages over TLS, with certificates of `gridmsg certs` and with passwords, taken and refused.

Skipped by name where a toolchain or its registry is missing.  Python's clients: test_tls.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import clients
from tests.support.secure import SecureBroker

pytestmark = pytest.mark.interop

PROTOCOLS = {
    "go": "amqp",
    "java": "amqp",
    "node": "amqp",
    "rust": "amqp",
    "gostomp": "stomp",
    "perl": "stomp",
    "stompjs": "websocket",
}
PASSWORD = ("bob", "s3cret")


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureBroker]:
    made = SecureBroker(tmp_path_factory.mktemp("tls-clients"))
    try:
        made.add_user(*PASSWORD)
        made.add_user("CN=named,DC=site,DC=ch")
        yield made
        assert "s3cret" not in made.log.read_text()
        assert "Traceback" not in made.log.read_text()
    finally:
        made.close()


def said(
    broker: SecureBroker,
    factory: pytest.TempPathFactory,
    language: str,
    client: str | None = None,
    login: tuple[str, str] = PASSWORD,
    host: str = "localhost",
    place: str = "optional",
) -> tuple[int, str]:
    """What a client's program returns and says."""
    files = broker.certificates.files(client)
    if language == "rust" and client is not None:
        files = [files[0], str(broker.certificates.pkcs12(client, "sealed")), "sealed"]
    protocol = PROTOCOLS[language]
    port = broker.secure_port(protocol, place)
    if protocol == "amqp":
        with_login = "" if client is not None else f"{login[0]}:{login[1]}@"
        words = [f"amqps://{with_login}{host}:{port}/%2F", *files]
    elif protocol == "websocket":
        words = [f"wss://{host}:{port}/ws", *login, *files]
    elif language == "perl":
        words = [host, str(port), *login, *files]
    else:
        words = [f"{host}:{port}", *login, *files]
    done = clients.run(clients.built(language, factory), *words)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("language", PROTOCOLS)
def test_with_a_certificate(
    language: str, broker: SecureBroker, tmp_path_factory: pytest.TempPathFactory
) -> None:
    status, text = said(broker, tmp_path_factory, language, "named", place="required")
    assert status == 0, text + broker.logs()


@pytest.mark.parametrize("language", PROTOCOLS)
def test_with_a_password(
    language: str, broker: SecureBroker, tmp_path_factory: pytest.TempPathFactory
) -> None:
    status, text = said(broker, tmp_path_factory, language)
    assert status == 0, text + broker.logs()


@pytest.mark.parametrize("language", PROTOCOLS)
def test_with_a_wrong_password(
    language: str, broker: SecureBroker, tmp_path_factory: pytest.TempPathFactory
) -> None:
    wrong = ("bob", f"wrong-{language}")
    assert said(broker, tmp_path_factory, language, login=wrong)[0] != 0
    kind = "AMQP" if PROTOCOLS[language] == "amqp" else "STOMP"
    assert broker.logged(
        f"{kind} login from 127.0.0.1:[0-9]+ refused: Access refused for user 'bob'"
    )


REFUSED = {
    "missing": (None, "it has shown no client certificate, which is required here"),
    "expired": ("expired", "its certificate CN=expired,DC=site,DC=ch expired 20"),
    "foreign": ("foreign", " is foreign: CN=Authority,DC=other,DC=ch is no authority of ours"),
}


@pytest.mark.parametrize(("client", "text"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("language", ["go", "java", "rust", "gostomp", "stompjs"])
def test_certificates_that_are_refused_with_a_line_that_says_which(
    language: str,
    client: str | None,
    text: str,
    broker: SecureBroker,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    clients.built(language, tmp_path_factory)
    before = broker.log_bytes()
    status, output = said(broker, tmp_path_factory, language, client, place="required")
    assert status != 0, output
    wanted = f"{PROTOCOLS[language]} listener: TLS with 127.0.0.1:[0-9]+ refused: .*"
    lines = broker.lines(wanted, after_bytes=before)
    # Java shows no certificate of an authority that we did not name.
    texts = (text, REFUSED["missing"][1]) if language == "java" else (text,)
    assert any(one in line for line in lines for one in texts), (lines, output)


@pytest.mark.parametrize("language", PROTOCOLS)
def test_a_wrong_host_is_refused_by_the_client(
    language: str, broker: SecureBroker, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The broker is reached by an address that its certificate does not name."""
    clients.built(language, tmp_path_factory)
    before = broker.log_bytes()
    status, output = said(broker, tmp_path_factory, language, host="127.0.0.2", place="other host")
    assert status != 0 and "127.0.0.2" in output, output
    if language in ("go", "gostomp", "java", "rust"):
        # The others look at the name when the handshake is over, and just go.
        wanted = "listener: TLS with 127.0.0.1:[0-9]+ refused: it does not trust our certificate"
        assert broker.logged(wanted, after_bytes=before) == 1
