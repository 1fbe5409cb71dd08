"""TLS for who dials: the far side's certificate and name are verified, an own certificate is shown.

Loaded only for links with TLS.  Tests: tests/interop/test_links.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from OpenSSL import SSL
from twisted.internet.ssl import (
    Certificate,
    PrivateCertificate,
    optionsForClientTLS,
    platformTrust,
    trustRootFromCertificates,
)
from twisted.protocols.tls import TLSMemoryBIOFactory

if TYPE_CHECKING:
    from broker.link.settings import LinkTls

_BEGIN = "-----BEGIN CERTIFICATE-----"


def secured_client(tls: LinkTls, host: str, factory: Any) -> Any:
    """Wrap a dialed connection in TLS; raises OSError, ValueError for files that are no good."""
    trust: Any = platformTrust() if not tls.ca else trustRootFromCertificates(_authorities(tls.ca))
    own: Any = None
    if tls.certificate:
        try:
            own = PrivateCertificate.loadPEM(
                Path(tls.certificate).read_bytes() + Path(tls.key).read_bytes()
            )
        except SSL.Error:
            raise ValueError(
                f"{tls.certificate} and {tls.key}: no certificate with its key"
            ) from None
    options: Any = optionsForClientTLS(
        tls.server_name or host, trustRoot=trust, clientCertificate=own
    )
    return TLSMemoryBIOFactory(options, True, factory)


def _authorities(path: str) -> list[Any]:
    parts = Path(path).read_text().split(_BEGIN)[1:]
    if not parts:
        raise ValueError(f"{path}: no certificates in PEM")
    try:
        return [Certificate.loadPEM((_BEGIN + part).encode()) for part in parts]
    except SSL.Error:
        raise ValueError(f"{path}: a certificate that cannot be read") from None
