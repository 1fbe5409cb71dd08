"""Handshakes in memory: a listener's factory on one side, an OpenSSL client on the other, no port."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from types import SimpleNamespace

import pytest
from OpenSSL import SSL
from twisted.internet.address import IPv4Address
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from broker.net import tls
from broker.net.tls_files import TlsFiles
from broker.session.dn import from_attributes, slash_form
from certs.authority import Authority

NOW = dt.datetime.now(dt.UTC)
DAY = dt.timedelta(days=1)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    ours = Authority(folder / "ours", NOW)
    ours.init("/DC=ch/CN=Ours")
    theirs = Authority(folder / "theirs", NOW)
    theirs.init("/DC=ch/CN=Theirs")
    past = Authority(folder / "ours", NOW - 800 * DAY)
    future = Authority(folder / "ours", NOW + 20 * DAY)
    host = ours.host("b.example.org")
    return SimpleNamespace(
        folder=folder,
        ca=ours.certificate,
        foreign_ca=theirs.certificate,
        host=host,
        client=ours.client("/DC=ch/CN=me"),
        expired=past.client("/DC=ch/CN=old"),
        early=future.client("/DC=ch/CN=early"),
        foreign=theirs.client("/DC=ch/CN=stranger"),
    )


class Inner(Protocol):
    """What a listener's protocol sees."""

    def __init__(self):
        self.received = b""
        self.lost = None

    def dataReceived(self, data):
        self.received += data

    def connectionLost(self, reason):
        self.lost = reason


class Wire:
    """One client at a TLS listener."""

    def __init__(self, files, client=None, ca=None, version=None, wrapped=None):
        factory = Factory.forProtocol(Inner) if wrapped is None else wrapped
        outer = tls.TlsFactory(tls.TlsContext(files), "stomp", factory)
        outer._clock = Clock()
        self.clock = outer._clock
        self.server = outer.buildProtocol(None)
        if self.server is None:
            return
        self.inner = self.server.wrappedProtocol
        self.transport = StringTransport(peerAddress=IPv4Address("TCP", "192.0.2.9", 4711))
        self.server.makeConnection(self.transport)
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        if version is not None:
            context.set_cipher_list(b"ALL:@SECLEVEL=0")
            context.set_min_proto_version(version)
            context.set_max_proto_version(version)
        if client is not None:
            context.use_certificate_chain_file(str(client.certificate))
            context.use_privatekey_file(str(client.key))
        if ca is not None:
            context.load_verify_locations(str(ca))
            context.set_verify(SSL.VERIFY_PEER, lambda *arguments: bool(arguments[4]))
        self.client = SSL.Connection(context, None)
        self.client.set_connect_state()
        self.error = None

    def pump(self):
        """Carry bytes to and fro until both are silent."""
        for _ in range(20):
            try:
                if self.error is None:
                    self.client.do_handshake()
            except SSL.WantReadError:
                pass
            except SSL.Error as error:
                self.error = error
            out = self._from_client()
            if out and not self.transport.disconnecting:
                self.server.dataReceived(out)
            self.clock.advance(0)
            back = self.transport.value()
            self.transport.clear()
            if back:
                self.client.bio_write(back)
            if not out and not back:
                break
        return self

    def _from_client(self):
        try:
            return self.client.bio_read(1 << 20)
        except SSL.WantReadError:
            return b""

    def lose(self):
        from twisted.internet.error import ConnectionDone
        from twisted.python.failure import Failure

        self.server.connectionLost(Failure(ConnectionDone()))
        return self


def files(site, **options):
    return TlsFiles(site.host.certificate, site.host.key, site.ca, **options)


def test_a_client_without_a_certificate_where_it_is_optional(site):
    wire = Wire(files(site, verify="optional"), ca=site.ca).pump()
    assert wire.error is None
    wire.client.send(b"hello")
    wire.pump()
    assert wire.inner.received == b"hello"
    assert tls.client_subject(wire.server) is None
    assert wire.client.get_protocol_version_name() == "TLSv1.3"


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
@pytest.mark.parametrize("verify", ["optional", "required"])
def test_a_client_with_a_certificate(site, verify, version):
    wire = Wire(files(site, verify=verify), client=site.client, version=version).pump()
    wire.client.send(b"hello")
    wire.pump()
    assert wire.inner.received == b"hello"
    assert slash_form(from_attributes(tls.client_subject(wire.server))) == "/DC=ch/CN=me"


REFUSED = {
    "missing": (None, "it has shown no client certificate, which is required here"),
    "expired": ("expired", "its certificate CN=old,DC=ch expired "),
    "early": ("early", "its certificate CN=early,DC=ch is not valid yet"),
    "foreign": (
        "foreign",
        "its certificate is foreign: CN=Theirs,DC=ch is no authority of ours",
    ),
}


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
@pytest.mark.parametrize(("name", "text"), REFUSED.values(), ids=REFUSED)
def test_a_refused_client_leaves_one_line_that_says_why(site, name, text, version, caplog):
    client = None if name is None else getattr(site, name)
    wire = Wire(files(site, verify="required"), client=client, version=version).pump().lose()
    assert wire.inner.received == b"" and wire.inner.lost is not None
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1, lines
    assert lines[0].startswith("stomp listener: TLS with 192.0.2.9:4711 refused: ")
    assert text in lines[0]


@pytest.mark.parametrize("name", ["expired", "early", "foreign"])
def test_a_bad_certificate_is_refused_where_none_is_needed_too(site, name, caplog):
    Wire(files(site, verify="optional"), client=getattr(site, name)).pump().lose()
    assert len(caplog.records) == 1


def test_a_host_certificate_serves_as_a_client_certificate(site):
    wire = Wire(files(site, verify="required"), client=site.host).pump()
    assert slash_form(from_attributes(tls.client_subject(wire.server))) == "/DC=ch/CN=b.example.org"


def test_a_client_certificate_is_not_a_hosts(site, caplog):
    client_only = TlsFiles(site.client.certificate, site.client.key)
    wire = Wire(client_only, ca=site.ca).pump().lose()
    assert wire.error is not None
    assert "it does not trust our certificate" in caplog.text


def test_a_client_that_does_not_trust_us(site, caplog):
    wire = Wire(files(site), ca=site.foreign_ca).pump().lose()
    assert wire.error is not None
    assert "it does not trust our certificate: the authority is unknown to it" in caplog.text


@pytest.mark.parametrize("version", [SSL.TLS1_VERSION, SSL.TLS1_1_VERSION])
def test_old_versions_are_refused(site, version, caplog):
    wire = Wire(files(site), version=version).pump().lose()
    assert (
        wire.error is not None
        or wire.client.get_state_string() != b"SSL negotiation finished successfully"
    )
    assert "its TLS is older than our least (min-version)" in caplog.text


def test_the_least_version_can_be_raised(site, caplog):
    Wire(files(site, min_version="1.3"), version=SSL.TLS1_2_VERSION).pump().lose()
    assert "older than our least" in caplog.text


@pytest.mark.parametrize(
    ("sent", "text"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "it speaks plain HTTP, not TLS"),
        (b"CONNECT\naccept-version:1.2\n\n\0", "it does not speak TLS"),
        (b"AMQP\0\0\x09\x01" + b"x" * 10, "it does not speak TLS"),
    ],
)
def test_peers_that_do_not_speak_tls(site, sent, text, caplog):
    wire = Wire(files(site))
    wire.server.dataReceived(sent)
    wire.lose()
    assert text in caplog.text


def test_a_connection_that_just_ends_says_nothing(site, caplog):
    Wire(files(site)).lose()
    Wire(files(site)).pump().lose()
    assert caplog.records == []


def test_half_a_tls_connection_is_closed_whole(site):
    wire = Wire(files(site)).pump()
    wire.server.write(b"the last word")
    wire.server.loseWriteConnection()
    wire.clock.advance(0)
    wire.client.bio_write(wire.transport.value())
    assert wire.client.recv(100) == b"the last word"
    with pytest.raises(SSL.ZeroReturnError):
        wire.client.recv(100)


def test_a_listener_that_takes_no_more_connections(site):
    class Full(Factory):
        def buildProtocol(self, addr):
            return None

    assert Wire(files(site), wrapped=Full()).server is None


def test_what_is_wrong_with_the_files_is_named(site, tmp_path):
    junk = tmp_path / "junk.pem"
    junk.write_text("junk")
    none = tmp_path / "none.pem"
    locked = tmp_path / "locked.key"
    locked.write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    cases = (
        (TlsFiles(none, site.host.key), f"{none}: No such file"),
        (TlsFiles(junk, site.host.key), f"{junk}: no certificate in PEM"),
        (TlsFiles(site.host.certificate, junk), f"{junk}: no private key"),
        (TlsFiles(site.host.certificate, locked), "without a pass phrase"),
        (TlsFiles(site.host.certificate, site.client.key), "not that of"),
        (
            TlsFiles(site.host.certificate, site.host.key, junk, "optional"),
            f"{junk}: no certificates",
        ),
        (TlsFiles(site.host.certificate, site.host.key, None, "required"), "no authorities"),
    )
    for wrong, text in cases:
        with pytest.raises(tls.TlsFailure) as caught:
            tls.make_context(wrong)
        assert text in str(caught.value)


def test_nothing_loads_openssl_before_it_is_needed():
    """A broker without TLS must not start slower for it."""
    code = (
        "import sys, broker.server, broker.config, broker.net.tls_files;"
        "broker.config.load(environment={}).accounts();"
        "print([one for one in ('OpenSSL', 'cryptography', 'argon2') if one in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]", done.stdout


@pytest.mark.parametrize(("mode", "is_told"), [(0o600, False), (0o640, False), (0o644, True)])
def test_a_key_that_others_may_read_is_told(site, caplog, mode, is_told):
    made = files(site)
    before = made.key.stat().st_mode
    made.key.chmod(mode)
    try:
        tls.make_context(made)
    finally:
        made.key.chmod(before)
    assert (f"may be read by others (mode {mode:o}): chmod 600 it" in caplog.text) is is_told
