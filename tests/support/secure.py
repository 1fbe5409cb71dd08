"""A real broker with TLS on every listener, and certificates in every state, all made by `certs`."""

from __future__ import annotations

import datetime as dt
import re
import ssl
import subprocess
import sys
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs12

from broker.cli.base import ClientTls
from broker.cli.client import Client as Management
from certs.authority import LOOPBACK_NAMES, Authority
from tests.support.site import ROOT, Site
from tests.support.waiting import PATIENCE_SECONDS, wait_until

ALL_RIGHTS = {"configure": ".*", "write": ".*", "read": ".*"}
CONFIG = """
[tls]
certificate = "ours/hosts/localhost.pem"
key = "ours/hosts/localhost.key"
ca = "ours/ca.pem"

[auth]
dn-map = { "CN=mapped,DC=site,DC=ch" = "agent" }

[auth.users.agent]

"""
LISTENER = """[[listener]]
protocol = "{protocol}"
address = "{address}"
tls = true
verify = "{verify}"
"""
PROTOCOLS = ("stomp", "amqp", "websocket", "management")
PLACES = {
    "optional": ("127.0.0.1:0", "optional"),
    "required": ("127.0.0.1:0", "required"),
    "other host": ("127.0.0.2:0", "optional"),
}
"""Each protocol is spoken in three places: an address, and whether a certificate is asked for."""


class Certificates:
    """An authority of ours and one of others, with hosts and clients in every state.

    `named` and `mapped` are users, `nobody` is none; `expired` was ours, `early` will be; `host` is no client's.
    """

    def __init__(self, folder: Path) -> None:
        now = dt.datetime.now(dt.UTC)
        ours = Authority(folder / "ours", now)
        ours.init("/DC=ch/DC=site/CN=Authority")
        theirs = Authority(folder / "theirs", now)
        theirs.init("/DC=ch/DC=other/CN=Authority")
        past = Authority(folder / "ours", now - dt.timedelta(days=800))
        future = Authority(folder / "ours", now + dt.timedelta(days=2))
        self.host = ours.host("localhost", LOOPBACK_NAMES)
        self.ca = ours.certificate
        self.foreign_ca = theirs.certificate
        self.clients = {
            "named": ours.client("/DC=ch/DC=site/CN=named"),
            "mapped": ours.client("mapped"),
            "nobody": ours.client("nobody"),
            "expired": past.client("expired"),
            "early": future.client("early"),
            "foreign": theirs.client("/DC=ch/DC=site/CN=named"),
        }

    def context(self, client: str | None = None, ca: Path | None = None) -> ssl.SSLContext:
        """A client's context, with its certificate if it has one."""
        context = ssl.create_default_context(cafile=str(ca or self.ca))
        if client is not None:
            made = self.clients[client]
            context.load_cert_chain(made.certificate, made.key)
        return context

    def files(self, client: str | None = None, ca: Path | None = None) -> list[str]:
        """The same as file names: authority, certificate, key."""
        names = [str(ca or self.ca)]
        if client is not None:
            made = self.clients[client]
            names += [str(made.certificate), str(made.key)]
        return names

    def pkcs12(self, client: str, password: str) -> Path:
        """A client's certificate and key in one file, for clients that take nothing else."""
        made = self.clients[client]
        path = made.certificate.with_suffix(".p12")
        certificate = x509.load_pem_x509_certificate(made.certificate.read_bytes())
        key = serialization.load_pem_private_key(made.key.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey), "our keys are"
        sealed = serialization.BestAvailableEncryption(password.encode())
        raw = pkcs12.serialize_key_and_certificates(None, key, certificate, None, sealed)
        path.write_bytes(raw)
        return path


class SecureBroker(Site):
    """A broker that speaks each protocol in each of `PLACES`; its certificate is for localhost and 127.0.0.1.

    Users: guest, bob with the password s3cret, and the certificates `named` (by its subject) and `mapped`.
    """

    def __init__(self, folder: Path) -> None:
        self.certificates = Certificates(folder)
        super().__init__(folder)
        self.log = folder / "broker.log"
        self._ports: dict[tuple[str, str], int] = {}
        self._configure()
        self.start_secure()

    def _configure(self) -> None:
        """Ports 0 at first: the kernel chooses, and `broker active` tells which."""
        listeners = "".join(
            LISTENER.format(protocol=protocol, address=address, verify=verify)
            for protocol in PROTOCOLS
            for address, verify in PLACES.values()
        )
        self.config.write_text(CONFIG + listeners)

    def start_secure(self) -> None:
        """Start the broker and wait until it is active."""
        before_bytes = self.log_bytes() if self.log.exists() else 0
        self.start_broker()
        # The whole line: it ends with what the broker says next, or with its own end.
        (found, *_) = self.lines("broker active.*\n", after_bytes=before_bytes)
        told = re.findall(r"(\w+) with TLS [^ ]*?:(\d+)(?=,|$)", found.rstrip())
        assert len(told) == len(PROTOCOLS) * len(PLACES), found
        for index, (protocol, port) in enumerate(told):
            self._ports[protocol, list(PLACES)[index % len(PLACES)]] = int(port)

    def secure_port(self, protocol: str, place: str = "optional") -> int:
        """Where a protocol is spoken."""
        return self._ports[protocol, place]

    def management(self) -> Management:
        """The management API, as guest."""
        url = f"https://localhost:{self.secure_port('management')}"
        return Management(url, "guest", "guest", ClientTls(self.certificates.ca))

    def add_user(self, name: str, password: str | None = None) -> None:
        """A user with all rights; without a password by certificate only."""
        body = {"password_hash": ""} if password is None else {"password": password}
        self.management().put("users", name, body={**body, "tags": []})
        self.management().put("permissions", "/", name, body=ALL_RIGHTS)

    def log_bytes(self) -> int:
        """How long the log is by now."""
        return self.log.stat().st_size

    def logged(self, pattern: str, after_bytes: int = 0) -> int:
        """Wait for a line of the log that matches; returns how many there are."""
        return len(self.lines(pattern, after_bytes))

    def lines(self, pattern: str, after_bytes: int = 0) -> list[str]:
        """Wait for lines of the log that match, and return what matched."""

        def found() -> list[str]:
            return re.findall(pattern, self.log.read_bytes()[after_bytes:].decode())

        return wait_until(found, f"in the log: {pattern}", self)

    def tell(self, *words: str) -> str:
        """Run a command against the broker by its management address; returns what it says."""
        done = subprocess.run(  # noqa: S603
            [
                sys.executable, "-m", "broker", *words,
                "--url", f"https://localhost:{self.secure_port('management')}", "--ca", str(self.certificates.ca),
            ],
            capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE_SECONDS, check=False,
        )  # fmt: skip
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout
