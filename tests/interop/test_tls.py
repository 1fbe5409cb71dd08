"""Real clients over TLS against a running broker and collector: certificates, passwords, and who is refused why."""

from __future__ import annotations

import datetime as dt
import http.client
import queue
import re
import socket
import ssl
import subprocess
import sys
import time
import uuid

import pytest

from certs.authority import LOOPBACK_NAMES, Authority
from tests.support.site import ROOT, free_offset

stomp = pytest.importorskip("stomp")
pika = pytest.importorskip("pika")
pytestmark = pytest.mark.interop

NOW = dt.datetime.now(dt.UTC)
WAIT = 10
CONFIG = """
[tls]
certificate = "ours/hosts/localhost.pem"
key = "ours/hosts/localhost.key"
ca = "ours/ca.pem"

[auth]
dn-map = {{ "CN=mapped,DC=site,DC=ch" = "agent" }}

[auth.users.agent]

[[listener]]
protocol = "stomp"
tls = true
[[listener]]
protocol = "amqp"
tls = true
[[listener]]
protocol = "management"
tls = true
[[listener]]
protocol = "stomp"
address = "127.0.0.1:{strict_stomp}"
tls = true
verify = "required"
[[listener]]
protocol = "amqp"
address = "127.0.0.1:{strict_amqp}"
tls = true
verify = "required"
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Certificates:
    """An authority of ours and one of others, with hosts and clients in every state."""

    def __init__(self, folder):
        ours = Authority(folder / "ours", NOW)
        ours.init("/DC=ch/DC=site/CN=Authority")
        theirs = Authority(folder / "theirs", NOW)
        theirs.init("/DC=ch/DC=other/CN=Authority")
        past = Authority(folder / "ours", NOW - dt.timedelta(days=800))
        ours.host("localhost", LOOPBACK_NAMES)
        self.ca = ours.certificate
        self.foreign_ca = theirs.certificate
        self.clients = {
            "named": ours.client("/DC=ch/DC=site/CN=named"),
            "mapped": ours.client("mapped"),
            "nobody": ours.client("nobody"),
            "expired": past.client("expired"),
            "foreign": theirs.client("/DC=ch/DC=site/CN=named"),
        }

    def context(self, client=None, ca=None):
        context = ssl.create_default_context(cafile=str(ca or self.ca))
        if client is not None:
            made = self.clients[client]
            context.load_cert_chain(made.certificate, made.key)
        return context


class SecureBroker:
    def __init__(self, folder):
        self.folder = folder
        self.certificates = Certificates(folder)
        self.offset = free_offset()
        self.strict_stomp, self.strict_amqp = free_port(), free_port()
        self.config = folder / "gridmsg.toml"
        self.config.write_text(
            CONFIG.format(strict_stomp=self.strict_stomp, strict_amqp=self.strict_amqp)
        )
        self.log = folder / "broker.log"
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                self.command("broker", "run"), stdout=out, stderr=out, cwd=ROOT
            )
        deadline = time.monotonic() + 20
        while "broker active" not in self.log.read_text():
            assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def command(self, *words):
        return [
            sys.executable, "-m", "broker", *words, "--config", str(self.config),
            "--data", str(self.folder / "data"), "--port-offset", str(self.offset),
        ]  # fmt: skip

    def run(self, *words, given=None):
        done = subprocess.run(
            self.command(*words),
            input=given,
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    def port(self, default):
        return default + self.offset

    def logged(self, pattern, timeout_s=5):
        """Wait for a line of the log that matches; returns how many there are."""
        deadline = time.monotonic() + timeout_s
        while True:
            found = re.findall(pattern, self.log.read_text())
            if found or time.monotonic() > deadline:
                return len(found)
            time.sleep(0.02)

    def close(self):
        self.process.terminate()
        self.process.wait(WAIT)


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    running = SecureBroker(tmp_path_factory.mktemp("tls"))
    try:
        running.run("user", "add", "bob", "--password-file", "-", given="s3cret\n")
        running.run("permission", "set", "bob", ".*", ".*", ".*")
        running.run("user", "add", "CN=named,DC=site,DC=ch", "--no-password")
        running.run("permission", "set", "CN=named,DC=site,DC=ch", ".*", ".*", ".*")
        yield running
        assert "s3cret" not in running.log.read_text()
        assert "Traceback" not in running.log.read_text()
    finally:
        running.close()


# STOMP


class Client(stomp.ConnectionListener):
    def __init__(self, broker, port, client=None, login=None, ca=None, host="localhost"):
        self.answers = queue.Queue()
        self.messages = queue.Queue()
        certificates = broker.certificates
        self.connection = stomp.Connection12(
            [(host, port)], reconnect_attempts_max=1, timeout=WAIT, auto_decode=False
        )
        made = certificates.clients[client] if client else None
        self.connection.set_ssl(
            for_hosts=[(host, port)],
            ca_certs=str(ca or certificates.ca),
            cert_file=str(made.certificate) if made else None,
            key_file=str(made.key) if made else None,
        )
        self.connection.set_listener("test", self)
        self.connection.connect(*(login or ()), wait=False)

    def on_connected(self, frame):
        self.answers.put(("CONNECTED", ""))

    def on_error(self, frame):
        self.answers.put(("ERROR", frame.body.decode()))

    def on_receipt(self, frame):
        self.answers.put(("RECEIPT", frame.headers["receipt-id"]))

    def on_message(self, frame):
        self.messages.put(frame.body)

    def on_disconnected(self):
        self.answers.put(("closed", ""))

    def answer(self):
        return self.answers.get(timeout=WAIT)


def round_trip(client):
    assert client.answer() == ("CONNECTED", "")
    name = f"/queue/tls-{uuid.uuid4()}"
    big = b"x" * 3_000_000
    client.connection.subscribe(name, "1", headers={"receipt": "sub"})
    assert client.answer() == ("RECEIPT", "sub")
    for body in (b"small", big):
        client.connection.send(name, body, receipt="sent", persistent="true")
    assert [client.messages.get(timeout=WAIT) for _ in range(2)] == [b"small", big]
    assert client.answer() == ("RECEIPT", "sent") == client.answer()
    client.connection.disconnect()


@pytest.mark.parametrize("client", ["named", "mapped"])
@pytest.mark.parametrize("listener", ["optional", "required"])
def test_stomp_with_a_certificate(broker, client, listener):
    port = broker.port(61614) if listener == "optional" else broker.strict_stomp
    round_trip(Client(broker, port, client))


def test_stomp_with_a_password(broker):
    round_trip(Client(broker, broker.port(61614), login=("bob", "s3cret")))
    round_trip(Client(broker, broker.port(61614), login=("guest", "guest")))


def test_stomp_with_a_wrong_password(broker):
    client = Client(broker, broker.port(61614), login=("bob", "wrong"))
    assert client.answer() == ("ERROR", "Access refused for user 'bob'")
    assert broker.logged("STOMP login from .* refused: Access refused for user 'bob'")


def test_stomp_with_the_certificate_of_nobody(broker):
    client = Client(broker, broker.port(61614), "nobody")
    assert client.answer() == ("ERROR", "Access refused for user 'CN=nobody,DC=site,DC=ch'")


REFUSED = {
    "missing": (None, "it has shown no client certificate, which is required here"),
    "expired": ("expired", "its certificate CN=expired,DC=site,DC=ch expired 20"),
    "foreign": (
        "foreign",
        "its certificate is foreign: CN=Authority,DC=other,DC=ch is no authority of ours",
    ),
}


@pytest.mark.parametrize(("client", "text"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("protocol", ["stomp", "amqp"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_clients_that_are_refused_with_a_line_that_says_which(
    broker, protocol, client, text, version
):
    port = broker.strict_stomp if protocol == "stomp" else broker.strict_amqp
    context = broker.certificates.context(client)
    context.minimum_version = context.maximum_version = version
    wanted = rf"{protocol} listener: TLS with 127\.0\.0\.1:\d+ refused: .*{re.escape(text)}"
    before = broker.logged(wanted, 0)
    raw = socket.create_connection(("localhost", port), WAIT)
    with raw, pytest.raises((ssl.SSLError, ConnectionResetError)):
        with context.wrap_socket(raw, server_hostname="localhost") as secure:
            secure.sendall(b"CONNECT\naccept-version:1.2\n\n\0")
            if not secure.recv(100):
                raise ConnectionResetError
    deadline = time.monotonic() + 5
    while broker.logged(wanted, 0) == before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert broker.logged(wanted, 0) == before + 1


@pytest.mark.parametrize("port", [61614, 5671, 15671])
def test_a_wrong_host_is_refused_by_the_client(broker, port):
    """The broker's certificate is for localhost; the log says that the peer did not like it."""
    context = broker.certificates.context()
    raw = socket.create_connection(("127.0.0.1", broker.port(port)), WAIT)
    with raw, pytest.raises(ssl.SSLCertVerificationError, match="[Hh]ostname mismatch"):
        context.wrap_socket(raw, server_hostname="other.example.org")
    name = {61614: "stomp", 5671: "amqp", 15671: "management"}[port]
    assert broker.logged(f"{name} listener: .* refused: it does not trust our certificate")


def test_a_client_that_does_not_know_our_authority(broker):
    context = broker.certificates.context(ca=broker.certificates.foreign_ca)
    raw = socket.create_connection(("127.0.0.1", broker.port(5671)), WAIT)
    with raw, pytest.raises(ssl.SSLCertVerificationError):
        context.wrap_socket(raw, server_hostname="localhost")
    assert broker.logged("amqp listener: .* refused: .*the authority is unknown to it")


def test_plain_text_on_a_tls_port(broker):
    with socket.create_connection(("127.0.0.1", broker.port(5671)), WAIT) as raw:
        raw.sendall(b"AMQP\0\0\x09\x01")
        raw.settimeout(WAIT)
        while raw.recv(100):
            pass
    assert broker.logged("amqp listener: .* refused: it does not speak TLS")


def test_old_tls_and_resumption(broker):
    context = broker.certificates.context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    sessions = []
    for _ in range(2):
        raw = socket.create_connection(("127.0.0.1", broker.port(61614)), WAIT)
        session = sessions[-1] if sessions else None
        with context.wrap_socket(raw, server_hostname="localhost", session=session) as secure:
            assert not secure.session_reused
            assert "GCM" in secure.cipher()[0] or "CHACHA" in secure.cipher()[0]
            assert secure.cipher()[0].startswith("ECDHE")
            sessions.append(secure.session)


# AMQP


def parameters(broker, port, client=None, credentials=None):
    return pika.ConnectionParameters(
        "localhost",
        port,
        credentials=credentials or pika.credentials.ExternalCredentials(),
        ssl_options=pika.SSLOptions(broker.certificates.context(client), "localhost"),
        socket_timeout=WAIT,
        connection_attempts=1,
    )


def amqp_round_trip(connection):
    channel = connection.channel()
    channel.confirm_delivery()
    name = f"tls-{uuid.uuid4()}"
    channel.queue_declare(name, durable=True)
    for body in (b"small", b"y" * 3_000_000):
        channel.basic_publish("", name, body, pika.BasicProperties(delivery_mode=2), mandatory=True)
        assert channel.basic_get(name, auto_ack=True)[2] == body
    channel.queue_delete(name)
    connection.close()


@pytest.mark.parametrize("client", ["named", "mapped"])
@pytest.mark.parametrize("listener", ["optional", "required"])
def test_pika_with_a_certificate(broker, client, listener):
    port = broker.port(5671) if listener == "optional" else broker.strict_amqp
    amqp_round_trip(pika.BlockingConnection(parameters(broker, port, client)))


def test_pika_with_a_password(broker):
    for name, password in (("bob", "s3cret"), ("guest", "guest")):
        credentials = pika.PlainCredentials(name, password)
        amqp_round_trip(
            pika.BlockingConnection(parameters(broker, broker.port(5671), None, credentials))
        )


def test_pika_with_a_password_behind_a_certificate(broker):
    """A certificate where it is required, and then another user by password."""
    credentials = pika.PlainCredentials("bob", "s3cret")
    amqp_round_trip(
        pika.BlockingConnection(parameters(broker, broker.strict_amqp, "nobody", credentials))
    )


def test_pika_refused(broker):
    wrong = pika.PlainCredentials("bob", "wrong")
    with pytest.raises(pika.exceptions.ProbableAuthenticationError, match="ACCESS_REFUSED"):
        pika.BlockingConnection(parameters(broker, broker.port(5671), None, wrong))
    with pytest.raises(pika.exceptions.ProbableAuthenticationError, match="mechanism EXTERNAL"):
        pika.BlockingConnection(parameters(broker, broker.port(5671), "nobody"))
    with pytest.raises(pika.exceptions.AuthenticationError):
        pika.BlockingConnection(parameters(broker, broker.port(5671)))
    with pytest.raises(pika.exceptions.AMQPConnectionError):
        pika.BlockingConnection(parameters(broker, broker.strict_amqp))


# Accounts under open connections, and logins that cannot hold the broker up


def test_a_deleted_user_is_thrown_out(broker):
    broker.run("user", "add", "gone", "--password-file", "-", given="pw\n")
    broker.run("permission", "set", "gone", ".*", ".*", ".*")
    client = Client(broker, broker.port(61614), login=("gone", "pw"))
    assert client.answer() == ("CONNECTED", "")
    connection = pika.BlockingConnection(
        parameters(broker, broker.port(5671), None, pika.PlainCredentials("gone", "pw"))
    )
    broker.run("user", "delete", "gone")
    assert client.answer() == ("ERROR", "User 'gone' was deleted\n")
    with pytest.raises(pika.exceptions.ConnectionClosedByBroker, match="gone"):
        connection.process_data_events(WAIT)
    again = Client(broker, broker.port(61614), login=("gone", "pw"))
    assert again.answer() == ("ERROR", "Access refused for user 'gone'")


def test_wrong_logins_do_not_hold_others_up(broker):
    """Forty guesses at once; a client that is logged in has its receipts meanwhile."""
    client = Client(broker, broker.port(61614), login=("guest", "guest"))
    assert client.answer() == ("CONNECTED", "")
    broker.run("user", "add", "slow", "--password-file", "-", given="pw\n")
    guesses = []
    context = broker.certificates.context()
    for number in range(40):
        raw = socket.create_connection(("localhost", broker.port(61614)), WAIT)
        guess = context.wrap_socket(raw, server_hostname="localhost")
        frame = f"CONNECT\naccept-version:1.2\nhost:/\nlogin:slow\npasscode:guess{number}\n\n\0"
        guess.sendall(frame.encode())
        guesses.append(guess)
    longest = 0.0
    for number in range(20):
        started = time.monotonic()
        client.connection.send("/queue/held-up", b"x", receipt=str(number))
        assert client.answer() == ("RECEIPT", str(number))
        longest = max(longest, time.monotonic() - started)
    for guess in guesses:
        guess.settimeout(30)
        assert b"Access refused for user 'slow'" in guess.recv(1000)
        guess.close()
    # Forty checks take seconds; one of them in the reactor thread would already be seen here on a quiet machine.
    assert longest < 1
    client.connection.disconnect()


# Management, the commands, and the collector


def test_management_over_tls(broker):
    context = broker.certificates.context()
    connection = http.client.HTTPSConnection(
        "localhost", broker.port(15671), timeout=WAIT, context=context
    )
    connection.request("GET", "/health/ready")
    assert connection.getresponse().read() == b'{"status": "ok", "role": "active"}'
    connection.close()
    assert "bob" in broker.run("user", "list")
    assert "bob" in broker.run("permission", "list", "--user", "bob")


def test_accounts_survive_a_kill(tmp_path):
    broker = SecureBroker(tmp_path)
    try:
        broker.run("user", "add", "bob", "--password-file", "-", given="s3cret\n")
        broker.run("permission", "set", "bob", "", "", "^mine$")
        broker.run("permission", "set-topic", "bob", "amq.topic", "^a", "^b")
        broker.run("vhost", "add", "other")
        shown = broker.run("permission", "list", "--json"), broker.run("permission", "topics")
        broker.process.kill()
        broker.process.wait()
        broker.log.write_text("")
        with broker.log.open("ab") as out:
            broker.process = subprocess.Popen(
                broker.command("broker", "run"), stdout=out, stderr=out, cwd=ROOT
            )
        assert broker.logged("broker active", 20)
        assert (
            broker.run("permission", "list", "--json"),
            broker.run("permission", "topics"),
        ) == shown
        assert "other" in broker.run("vhost", "list")
    finally:
        broker.close()


def test_the_collector_over_tls(broker, tmp_path):
    """The agents' way in and out: probes to the collector, the collector to the broker, both by certificate."""
    port = free_port()
    made = broker.certificates.clients["named"]
    folder = broker.folder
    config = tmp_path / "collector.toml"
    config.write_text(
        f"""
[collector]
address = "127.0.0.1:{port}"
[collector.tls]
certificate = "{folder}/ours/hosts/localhost.pem"
key = "{folder}/ours/hosts/localhost.key"
ca = "{folder}/ours/ca.pem"
verify = "required"
[collector.broker]
addresses = ["localhost:{broker.port(61614)}"]
login = ""
[collector.broker.tls]
ca = "{broker.certificates.ca}"
certificate = "{made.certificate}"
key = "{made.key}"
"""
    )
    log = tmp_path / "collector.log"
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "broker", "collector", "run", "--config", str(config)]
            + ["--data", str(tmp_path / "data")],
            stdout=out,
            stderr=out,
            cwd=ROOT,
        )
    try:
        deadline = time.monotonic() + 20
        while (
            "connected to localhost" not in log.read_text()
            or "takes records" not in log.read_text()
        ):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        connection = http.client.HTTPSConnection(
            "localhost", port, timeout=WAIT, context=broker.certificates.context("named")
        )
        body = '{"type": "raw", "SiteName": "tls"}'
        connection.request("POST", "/records", body, {"Content-Type": "application/json"})
        assert connection.getresponse().status == 200
        connection.close()
        with pytest.raises((ssl.SSLError, ConnectionResetError, http.client.RemoteDisconnected)):
            refused = http.client.HTTPSConnection(
                "localhost", port, timeout=WAIT, context=broker.certificates.context()
            )
            refused.request("GET", "/")
            refused.getresponse()
        while "it has shown no client certificate" not in log.read_text():
            assert time.monotonic() < deadline + 5, log.read_text()
            time.sleep(0.05)
    finally:
        process.terminate()
        process.wait(WAIT)
