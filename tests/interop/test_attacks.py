"""Who attacks from outside before it has logged in: floods, silence, too many connections, old TLS.  The broker goes on."""

from __future__ import annotations

import base64
import contextlib
import http.client
import os
import socket
import ssl
import struct
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.secure import SecureBroker
from tests.support.site import ROOT, Site
from tests.support.waiting import PATIENCE_SECONDS, wait_until

stomp = pytest.importorskip("stomp")
pytestmark = pytest.mark.interop

WAIT = PATIENCE_SECONDS
FILES = 300
LOGIN_SECONDS = 5.0
TOLD_SECONDS = 10.0
"""Between two lines of one listener about refused connections."""
MIB = 1 << 20


class Attacked(Site):
    """A broker with few open files, small segments, and so long for a login."""

    def __init__(self, folder: Path, login_seconds: float) -> None:
        limits = f"\n[listener.limits]\nlogin-timeout = {login_seconds}\n"
        super().__init__(folder, '[store]\nsegment-size = "1MiB"\n')
        rows = "".join(
            f'[[listener]]\nprotocol = "{protocol}"\n{limits}'
            for protocol in ("stomp", "amqp", "websocket", "management")
        )
        self.config.write_text(self.config.read_text() + rows)
        with (folder / "broker.log").open("ab") as out:
            # Few files for good: a broker takes what the hard limit allows.
            self.processes["broker run"] = subprocess.Popen(
                [
                    "sh",
                    "-c",
                    f'ulimit -n {FILES} && exec "$@"',
                    "sh",
                    *self.command("broker", "run"),
                ],
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env=self.environment(),
            )
        for port in (61613, 5672, 15674, 15672):
            self.wait_for_port(port)

    def connect(self, port: int) -> socket.socket:
        made = socket.create_connection(("127.0.0.1", self.port(port)), WAIT)
        made.settimeout(WAIT)
        return made

    def memory_bytes(self) -> int:
        pid = self.processes["broker run"].pid
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    # Time enough for any machine: it does not end what a test wants to be open.
    yield from attacked(tmp_path_factory.mktemp("attacked"), 600.0)


@pytest.fixture
def impatient(tmp_path: Path) -> Iterator[Attacked]:
    yield from attacked(tmp_path, LOGIN_SECONDS)


def attacked(folder: Path, login_seconds: float) -> Iterator[Attacked]:
    made = Attacked(folder, login_seconds)
    try:
        yield made
        assert made.processes["broker run"].poll() is None, made.logs()
        log = (made.folder / "broker.log").read_text()
        assert "Traceback" not in log and "CRITICAL" not in log, made.logs()
    finally:
        made.close()


class Receipts(stomp.ConnectionListener):  # type: ignore[misc]
    def __init__(self) -> None:
        self.count = 0

    def on_receipt(self, frame: object) -> None:
        self.count += 1


def logged_in(site: Attacked) -> Any:
    """A client that has logged in; tried again, since a busy machine may be slower than the broker's patience."""

    def client() -> Any:
        made = stomp.Connection12([("127.0.0.1", site.port(61613))], reconnect_attempts_max=1)
        try:
            made.connect("guest", "guest", wait=True)
        except stomp.exception.ConnectFailedException:
            return None
        return made

    return wait_until(client, "a login", site)


def publish(site: Attacked, count: int, client: Any = None) -> None:
    """Persistent messages of 100 KB, each confirmed."""
    client = client or logged_in(site)
    receipts = Receipts()
    client.set_listener("receipts", receipts)
    for number in range(count):
        client.send("/queue/attacked", b"x" * 100_000, receipt=str(number), persistent="true")
    wait_until(lambda: receipts.count == count, f"{count} receipts", site)
    client.disconnect()


def ended(peer: socket.socket) -> bytes:
    """What comes until the broker ends the connection."""
    said = b""
    try:
        while piece := peer.recv(65536):
            said += piece
    except ConnectionError:
        pass
    return said


def flood(peer: socket.socket, piece: bytes, total_bytes: int) -> None:
    """Send until it is enough or the broker has had enough."""
    sent = 0
    try:
        while sent < total_bytes:
            peer.sendall(piece)
            sent += len(piece)
    except OSError:
        pass


def test_more_connections_than_open_files(site: Attacked) -> None:
    """They are closed at once; the store still gets its files, and who has logged in goes on."""
    client = logged_in(site)
    began = time.monotonic()
    idle = [site.connect((15672, 61613, 5672, 15674)[number % 4]) for number in range(FILES + 50)]
    told = "connections are open, what the system allows (ulimit -n)"
    wait_until(lambda: told in site.log_path("broker").read_text(), told, site)
    # More than one segment of one MiB.
    publish(site, 30, client)
    passed = time.monotonic() - began
    assert site.log_path("broker").read_text().count(told) <= 4 * (passed / TOLD_SECONDS + 1)
    for one in idle:
        one.close()
    publish(site, 1)


def test_silence_ends_when_the_time_to_log_in_is_over(impatient: Attacked) -> None:
    peers = []
    began = time.monotonic()
    for port in (61613, 5672, 15674):
        for begin in (b"", b"C", b"A", b"\n", b"GET /ws HTTP/1.1\r\n"):
            peers.append((impatient.connect(port), begin))
            peers[-1][0].sendall(begin)
    for peer, begin in peers:
        ended(peer)
        assert begin or time.monotonic() - began >= LOGIN_SECONDS
        peer.close()


FLOODS = {
    "stomp command": (61613, b"", b"A"),
    "stomp headers": (61613, b"CONNECT\n", b"a:b\n"),
    "stomp one header": (61613, b"CONNECT\na:", b"b"),
    "stomp body": (61613, b"CONNECT\ncontent-length:100000000\n\n", b"x"),
    "stomp body without an end": (61613, b"CONNECT\n\n", b"x"),
    "stomp newlines": (61613, b"", b"\n"),
    "amqp nothing": (5672, b"", b"x"),
    "amqp frame": (5672, b"AMQP\0\0\x09\x01" + struct.pack(">BHI", 1, 0, (1 << 32) - 1), b"x"),
    "amqp heart-beats": (5672, b"AMQP\0\0\x09\x01", b"\x08\0\0\0\0\0\0\xce"),
    "websocket headers": (15674, b"GET /ws HTTP/1.1\r\n", b"A: b\r\n"),
    "websocket one header": (15674, b"GET /ws HTTP/1.1\r\nA: ", b"b"),
    "http headers": (15672, b"GET / HTTP/1.1\r\n", b"A: b\r\n"),
    "http one header": (15672, b"GET / HTTP/1.1\r\nA: ", b"b"),
    "http line": (15672, b"GET /", b"a"),
    "http body": (
        15672, b"PUT /api/users/x HTTP/1.1\r\nHost: x\r\nContent-Length: 4000000000\r\n\r\n", b"x"
    ),
    "http chunks": (
        15672,
        b"PUT /api/users/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"4\r\nxxxx\r\n",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FLOODS)
def test_floods_before_the_login_end_or_are_thrown_away(site: Attacked, name: str) -> None:
    port, begin, piece = FLOODS[name]
    publish(site, 1)
    before = site.memory_bytes()
    peer = site.connect(port)
    peer.sendall(begin)
    flood(peer, piece * (65536 // len(piece)), 64 * MIB)
    assert site.memory_bytes() - before < 24 * MIB
    publish(site, 1)
    peer.close()


def test_tables_in_tables_before_the_login(site: Attacked) -> None:
    """As deep as the largest frame before the login allows."""
    table = b""
    while len(table) < 7900:
        table = b"\1aF" + struct.pack(">I", len(table)) + table
    arguments = struct.pack(">I", len(table)) + table + b"\5PLAIN" + bytes(4) + b"\5en_US"
    payload = struct.pack(">HH", 10, 11) + arguments
    peer = site.connect(5672)
    frame = struct.pack(">BHI", 1, 0, len(payload)) + payload + b"\xce"
    peer.sendall(b"AMQP\0\0\x09\x01" + frame)
    ended(peer)
    publish(site, 1)


def guess(site: Attacked, name: str, password: str) -> tuple[bytes, float]:
    """Log in by STOMP; returns the beginning of the answer, and how long it took."""
    peer = site.connect(61613)
    began = time.monotonic()
    frame = f"CONNECT\naccept-version:1.2\nhost:/\nlogin:{name}\npasscode:{password}\n\n\0"
    peer.sendall(frame.encode())
    answer = peer.recv(65536)
    peer.close()
    return answer.split(b"\n")[0], time.monotonic() - began


@pytest.mark.parametrize("name", ["ann", "nobody"])
def test_who_guesses_waits_and_others_do_not(site: Attacked, name: str) -> None:
    """Whether there is such a user or not."""
    login = base64.b64encode(b"guest:guest").decode()
    connection = http.client.HTTPConnection("127.0.0.1", site.port(15672), timeout=WAIT)
    body = '{"password": "right", "tags": ""}'
    connection.request("PUT", "/api/users/ann", body, {"Authorization": f"Basic {login}"})
    assert connection.getresponse().status in (201, 204)
    connection.close()
    answers = [guess(site, name, f"guess {number}") for number in range(11)]
    assert {answer for answer, _ in answers} == {b"ERROR"}
    waits = [seconds for _, seconds in answers]
    # Lower bounds only: the machine may be slow.
    assert min(waits) >= 0.5 and waits[10] >= 1.0
    answer, _ = guess(site, "guest", "guest")
    assert answer == b"CONNECTED"


def test_the_data_are_not_everybodys(site: Attacked) -> None:
    """Messages, and what passwords are known by, lie below folders that only owner and group enter."""
    for folder in (site.data, site.data / "broker"):
        assert folder.stat().st_mode & 0o007 == 0
    assert site.processes["broker run"].poll() is None


# Strangers


def enters(site: Site) -> socket.socket:
    """A connection that logs in by HTTP, and stays; raises OSError or HTTPException where it is refused."""
    connection = http.client.HTTPConnection("127.0.0.1", site.port(15672), timeout=WAIT)
    login = base64.b64encode(b"guest:guest").decode()
    connection.request("GET", "/api/whoami", headers={"Authorization": f"Basic {login}"})
    answer = connection.getresponse()
    assert answer.status == 200 and answer.read()
    return connection.sock


def test_who_does_not_log_in_takes_few_places(tmp_path: Path) -> None:
    """Over all listeners, and who has logged in goes on; who goes makes room, and so does a login."""
    rows = "".join(
        f'[[listener]]\nprotocol = "{protocol}"\n\n[listener.limits]\nlogin-timeout = 600\n'
        for protocol in ("stomp", "amqp", "websocket", "management")
    )
    site = Site(tmp_path, f"[auth]\nmax-strangers = 1\n{rows}")
    ports = (5672, 61613, 15674)
    held: list[socket.socket] = []
    try:
        site.start_broker()
        client = logged_in(site)
        told = "10 connections are open, of there without a login"

        def is_refused() -> bool:
            if len(held) < 60:
                address = ("127.0.0.1", site.port(ports[len(held) % 3]))
                held.append(socket.create_connection(address, WAIT))
            return told in site.log_path("broker").read_text()

        wait_until(is_refused, told, site)
        for port in ports:
            with socket.create_connection(("127.0.0.1", site.port(port)), WAIT) as peer:
                assert ended(peer) == b""
        publish(site, 2, client)
        held.pop(0).close()

        def has_room() -> bool:
            with contextlib.suppress(OSError, http.client.HTTPException):
                held.append(enters(site))
                return True
            return False

        wait_until(has_room, "room for a login", site)
        held += [enters(site) for _ in range(10)]
    finally:
        site.close()
        for one in held:
            one.close()


# TLS


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureBroker]:
    made = SecureBroker(tmp_path_factory.mktemp("attacked-tls"))
    try:
        yield made
        assert "Traceback" not in made.log.read_text()
    finally:
        made.close()


@pytest.mark.parametrize("protocol", ["stomp", "amqp", "websocket", "management"])
@pytest.mark.parametrize("version", ["TLSv1", "TLSv1_1"])
def test_old_tls_is_refused_with_a_line(secure: SecureBroker, protocol: str, version: str) -> None:
    context = secure.certificates.context()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        context.maximum_version = getattr(ssl.TLSVersion, version)
        context.minimum_version = getattr(ssl.TLSVersion, version)
    context.set_ciphers("ALL:@SECLEVEL=0")
    raw = socket.create_connection(("127.0.0.1", secure.secure_port(protocol)), WAIT)
    our_port = raw.getsockname()[1]
    with raw, pytest.raises((ssl.SSLError, ConnectionResetError)):
        context.wrap_socket(raw, server_hostname="localhost")
    wanted = f"{protocol} listener: TLS with 127.0.0.1:{our_port} refused: its TLS is older than"
    assert secure.logged(wanted) == 1


def test_renegotiation_is_refused(secure: SecureBroker) -> None:
    """A client that asks for handshake after handshake gets none but the first."""
    ossl = pytest.importorskip("OpenSSL.SSL")
    context = ossl.Context(ossl.TLS_CLIENT_METHOD)
    context.set_max_proto_version(ossl.TLS1_2_VERSION)
    raw = socket.create_connection(("127.0.0.1", secure.secure_port("stomp")), WAIT)
    raw.settimeout(None)
    peer = ossl.Connection(context, raw)
    peer.set_connect_state()
    peer.do_handshake()
    assert peer.get_protocol_version_name() == "TLSv1.2"
    assert peer.total_renegotiations() == 0
    with pytest.raises(ossl.Error):
        assert peer.renegotiate()
        for _ in range(10):
            peer.do_handshake()
            peer.send(b"\n")
            if not peer.renegotiate_pending():
                pytest.fail("the broker has renegotiated")
    raw.close()


@pytest.mark.skipif(sys.platform != "linux", reason="modes of files as on Linux")
def test_a_key_that_others_may_read_is_told(tmp_path: Path) -> None:
    broker = SecureBroker(tmp_path)
    try:
        assert "may be read by others" not in broker.log.read_text()
        broker.stop("broker", "run")
        broker.certificates.host.key.chmod(0o644)
        broker.start_secure()
        assert broker.logged(r"localhost\.key may be read by others \(mode 644\): chmod 600 it")
    finally:
        broker.close()
