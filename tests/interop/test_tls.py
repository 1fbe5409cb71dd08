"""Real clients over TLS against a running broker and collector: certificates, passwords, and who is refused why."""

from __future__ import annotations

import contextlib
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

from agents.config import BrokerSettings, TlsSettings
from agents.transport import Outgoing, Transport
from broker.session.amqp_handshake import PROTOCOL_HEADER
from broker.wire.amqp import methods
from broker.wire.amqp.frames import method_frame
from tests.support.amqp import published
from tests.support.ports import free_port
from tests.support.quiet import Stopwatch
from tests.support.secure import SecureBroker
from tests.support.site import ROOT
from tests.support.waiting import PATIENCE_SECONDS, wait_until

stomp = pytest.importorskip("stomp")
pika = pytest.importorskip("pika")
pytestmark = pytest.mark.interop

WAIT = PATIENCE_SECONDS


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    running = SecureBroker(tmp_path_factory.mktemp("tls"))
    try:
        running.add_user("bob", "s3cret")
        running.add_user("CN=named,DC=site,DC=ch")
        yield running
        assert "s3cret" not in running.log.read_text()
        assert "Traceback" not in running.log.read_text()
    finally:
        running.close()


# STOMP

_clients = []


@pytest.fixture(autouse=True)
def end_clients():
    """Over TLS stomp.py (9.0) asks a stream that has ended again for ever: its thread would spin beside all later tests."""
    yield
    while _clients:
        transport = _clients.pop().connection.transport
        transport.running = False
        with contextlib.suppress(OSError, AttributeError, ValueError, KeyError):
            transport.disconnect_socket()


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
        _clients.append(self)
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
    port = broker.secure_port("stomp", listener)
    round_trip(Client(broker, port, client))


def test_stomp_with_a_password(broker):
    round_trip(Client(broker, broker.secure_port("stomp"), login=("bob", "s3cret")))
    round_trip(Client(broker, broker.secure_port("stomp"), login=("guest", "guest")))


def test_stomp_with_a_wrong_password(broker):
    client = Client(broker, broker.secure_port("stomp"), login=("bob", "wrong"))
    assert client.answer() == ("ERROR", "Access refused for user 'bob'")
    assert broker.logged("STOMP login from .* refused: Access refused for user 'bob'")


def test_stomp_with_the_certificate_of_nobody(broker):
    client = Client(broker, broker.secure_port("stomp"), "nobody")
    assert client.answer() == ("ERROR", "Access refused for user 'CN=nobody,DC=site,DC=ch'")


REFUSED = {
    "missing": (None, "it has shown no client certificate, which is required here"),
    "expired": ("expired", "its certificate CN=expired,DC=site,DC=ch expired 20"),
    "early": ("early", "its certificate CN=early,DC=site,DC=ch is not valid yet (it begins 20"),
    "foreign": (
        "foreign",
        "its certificate is foreign: CN=Authority,DC=other,DC=ch is no authority of ours",
    ),
}


@pytest.mark.parametrize(("client", "text"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("protocol", ["stomp", "amqp", "websocket", "management"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_clients_that_are_refused_with_a_line_that_says_which(
    broker, protocol, client, text, version
):
    port = broker.secure_port(protocol, "required")
    context = broker.certificates.context(client)
    context.minimum_version = context.maximum_version = version
    raw = socket.create_connection(("127.0.0.1", port), WAIT)
    our_port = raw.getsockname()[1]
    with raw, pytest.raises((ssl.SSLError, ConnectionResetError)):
        with context.wrap_socket(raw, server_hostname="localhost") as secure:
            secure.sendall(b"CONNECT\naccept-version:1.2\n\n\0")
            if not secure.recv(100):
                raise ConnectionResetError
    wanted = f"{protocol} listener: TLS with 127.0.0.1:{our_port} refused: .*{re.escape(text)}"
    assert broker.logged(wanted) == 1


@pytest.mark.parametrize("protocol", ["stomp", "amqp", "management", "websocket"])
def test_a_wrong_host_is_refused_by_the_client(broker, protocol):
    """The broker's certificate is for localhost; the log says that the peer did not like it."""
    context = broker.certificates.context()
    raw = socket.create_connection(("127.0.0.1", broker.secure_port(protocol)), WAIT)
    with raw, pytest.raises(ssl.SSLCertVerificationError, match="[Hh]ostname mismatch"):
        context.wrap_socket(raw, server_hostname="other.example.org")
    assert broker.logged(f"{protocol} listener: .* refused: it does not trust our certificate")


def test_a_client_that_does_not_know_our_authority(broker):
    context = broker.certificates.context(ca=broker.certificates.foreign_ca)
    raw = socket.create_connection(("127.0.0.1", broker.secure_port("amqp")), WAIT)
    with raw, pytest.raises(ssl.SSLCertVerificationError):
        context.wrap_socket(raw, server_hostname="localhost")
    assert broker.logged("amqp listener: .* refused: .*the authority is unknown to it")


def test_plain_text_on_a_tls_port(broker):
    with socket.create_connection(("127.0.0.1", broker.secure_port("amqp")), WAIT) as raw:
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
        raw = socket.create_connection(("127.0.0.1", broker.secure_port("stomp")), WAIT)
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
    port = broker.secure_port("amqp", listener)
    amqp_round_trip(pika.BlockingConnection(parameters(broker, port, client)))


def test_pika_with_a_password(broker):
    for name, password in (("bob", "s3cret"), ("guest", "guest")):
        credentials = pika.PlainCredentials(name, password)
        amqp_round_trip(
            pika.BlockingConnection(
                parameters(broker, broker.secure_port("amqp"), None, credentials)
            )
        )


def test_pika_with_a_password_behind_a_certificate(broker):
    """A certificate where it is required, and then another user by password."""
    credentials = pika.PlainCredentials("bob", "s3cret")
    amqp_round_trip(
        pika.BlockingConnection(
            parameters(broker, broker.secure_port("amqp", "required"), "nobody", credentials)
        )
    )


def test_pika_refused(broker):
    wrong = pika.PlainCredentials("bob", "wrong")
    with pytest.raises(pika.exceptions.ProbableAuthenticationError, match="ACCESS_REFUSED"):
        pika.BlockingConnection(parameters(broker, broker.secure_port("amqp"), None, wrong))
    with pytest.raises(pika.exceptions.ProbableAuthenticationError, match="mechanism EXTERNAL"):
        pika.BlockingConnection(parameters(broker, broker.secure_port("amqp"), "nobody"))
    with pytest.raises(pika.exceptions.AuthenticationError):
        pika.BlockingConnection(parameters(broker, broker.secure_port("amqp")))
    with pytest.raises(pika.exceptions.AMQPConnectionError):
        pika.BlockingConnection(parameters(broker, broker.secure_port("amqp", "required")))


# Accounts under open connections, and logins that cannot hold the broker up


def test_a_deleted_user_is_thrown_out(broker):
    broker.add_user("gone", "pw")
    client = Client(broker, broker.secure_port("stomp"), login=("gone", "pw"))
    assert client.answer() == ("CONNECTED", "")
    connection = pika.BlockingConnection(
        parameters(broker, broker.secure_port("amqp"), None, pika.PlainCredentials("gone", "pw"))
    )
    broker.management().delete("users", "gone")
    assert client.answer() == ("ERROR", "User 'gone' was deleted\n")
    with pytest.raises(pika.exceptions.ConnectionClosedByBroker, match="gone"):
        connection.process_data_events(WAIT)
    again = Client(broker, broker.secure_port("stomp"), login=("gone", "pw"))
    assert again.answer() == ("ERROR", "Access refused for user 'gone'")


def test_wrong_logins_do_not_hold_others_up(broker):
    """Forty guesses at once; a client that is logged in has its receipts meanwhile."""
    client = Client(broker, broker.secure_port("stomp"), login=("guest", "guest"))
    assert client.answer() == ("CONNECTED", "")
    broker.add_user("slow", "pw")
    guesses = []
    context = broker.certificates.context()
    for number in range(40):
        raw = socket.create_connection(("localhost", broker.secure_port("stomp")), WAIT)
        guess = context.wrap_socket(raw, server_hostname="localhost")
        frame = f"CONNECT\naccept-version:1.2\nhost:/\nlogin:slow\npasscode:guess{number}\n\n\0"
        guess.sendall(frame.encode())
        guesses.append(guess)
    longest = 0.0
    watch = Stopwatch(broker.processes["broker run"].pid)
    for number in range(20):
        started = time.monotonic()
        client.connection.send("/queue/held-up", b"x", receipt=str(number))
        assert client.answer() == ("RECEIPT", str(number))
        longest = max(longest, time.monotonic() - started)
    for guess in guesses:
        guess.settimeout(WAIT)
        assert b"Access refused for user 'slow'" in guess.recv(1000)
        guess.close()
    client.connection.disconnect()
    # What waits until all guesses are answered would wait longer.
    watch.judge(longest, 3)


# Management, the commands, and the collector


def test_management_over_tls(broker):
    context = broker.certificates.context()
    connection = http.client.HTTPSConnection(
        "localhost", broker.secure_port("management"), timeout=WAIT, context=context
    )
    connection.request("GET", "/health/ready")
    assert connection.getresponse().read() == b'{"status": "ok", "role": "active"}'
    connection.close()
    assert "bob" in broker.tell("user", "list")


def test_accounts_survive_a_kill(tmp_path):
    broker = SecureBroker(tmp_path)
    try:
        management = broker.management()
        management.put("users", "bob", body={"password": "s3cret", "tags": ["monitoring"]})
        three = {"configure": "", "write": "", "read": "^mine$"}
        management.put("permissions", "/", "bob", body=three)
        topic = {"exchange": "amq.topic", "write": "^a", "read": "^b"}
        management.put("topic-permissions", "/", "bob", body=topic)
        management.put("vhosts", "other")
        asked = ("users", "permissions", "topic-permissions", "vhosts")
        shown = [management.get(what) for what in asked]
        assert {"name": "other"} in shown[3]
        broker.kill("broker", "run")
        broker.start_secure()
        assert [broker.management().get(what) for what in asked] == shown
        answer = Client(broker, broker.secure_port("stomp"), login=("bob", "s3cret")).answer()
        assert answer == ("CONNECTED", "")
    finally:
        broker.close()


def test_an_agent_notices_a_killed_broker_over_tls(tmp_path):
    broker = SecureBroker(tmp_path)
    tls = TlsSettings(ca=str(broker.certificates.ca))
    settings = BrokerSettings(
        addresses=(f"localhost:{broker.secure_port('stomp')}",),
        login="guest",
        passcode="guest",
        tls=tls,
        reconnect_min_seconds=0.1,
        reconnect_max_seconds=0.5,
        # Without a look at the end of the stream it would be a missing heart-beat that tells.
        heart_beat_ms=1_000_000,
    )
    transport = Transport(settings, "tls")
    taken = queue.Queue()
    try:
        transport.start()
        transport.subscribe("/queue/again", 10, taken.put)
        transport.publish("/queue/again", [Outgoing(b"before")], WAIT)
        transport.acknowledge([first := taken.get(timeout=WAIT)])
        broker.kill("broker", "run")
        wait_until(lambda: not first.is_current, "the end of the line", broker)
        # The line that has it says so once it has tried to connect again.
        wait_until(lambda: "connect" in transport.last_error_text, "an attempt", broker)
    finally:
        transport.stop()
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
addresses = ["localhost:{broker.secure_port("stomp")}"]
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

        def is_there():
            text = log.read_text()
            assert process.poll() is None, text
            return "connected to localhost" in text and "takes records" in text

        wait_until(is_there, "the collector with its connection", broker)
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
        told = "it has shown no client certificate"
        wait_until(lambda: told in log.read_text(), told, broker)
    finally:
        process.terminate()
        process.wait(WAIT)


def test_a_delivery_is_no_part_of_the_record_of_consume_ok(broker):
    """Else a client that polls its socket does not see it (py-amqp, and so Celery): no poll looks into its TLS library."""
    context = broker.certificates.context("named")
    raw = socket.create_connection(("127.0.0.1", broker.secure_port("amqp")), WAIT)
    with context.wrap_socket(raw, server_hostname="localhost") as peer:

        def read_until(name):
            read = b""
            while methods.METHODS[name].code not in read:
                piece = peer.recv(1)
                assert piece
                read += piece
            while read[-1:] != b"\xce":
                read += peer.recv(1)

        def send(channel, name, *fields):
            peer.sendall(method_frame(channel, methods.encode(name, *fields)))

        peer.sendall(PROTOCOL_HEADER)
        send(0, "connection.start-ok", {}, "EXTERNAL", b"", "en_US")
        read_until("connection.tune")
        send(0, "connection.tune-ok", 2047, 131072, 0)
        send(0, "connection.open", "/", "", False)
        send(1, "channel.open", "")
        for number in range(5):
            # Answered once the message is there: the consumer gets it in the turn of its consume-ok.
            peer.sendall(published("records", b"x"))
            send(1, "queue.declare", 0, "records", False, False, False, False, False, {})
            peer.sendall(published("records", b"x"))
            send(1, "queue.declare", 0, "records", True, False, False, False, False, {})
            for _ in range(2):
                read_until("queue.declare-ok")
            send(1, "basic.consume", 0, "records", f"c{number}", False, False, False, False, {})
            read_until("basic.consume-ok")
            assert peer.pending() == 0
            read_until("basic.deliver")
            send(1, "basic.cancel", f"c{number}", False)
            read_until("basic.cancel-ok")
        send(1, "queue.delete", 0, "records", False, False, False)
        read_until("queue.delete-ok")
