"""What a listener speaks TLS with, as named in a configuration; the files are opened by `net.tls`.

Apart from it, so that a configuration can be read without loading OpenSSL.  Tests: tests/unit/broker/net/test_tls.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

Verify = Literal["none", "optional", "required"]
"""Client certificates: not asked for, looked at if shown, refused without."""


@final
@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files.  `ca`: authorities of client certificates; without it none are asked for."""

    certificate: Path
    key: Path
    ca: Path | None = None
    verify: Verify = "none"
    min_version: Literal["1.2", "1.3"] = "1.2"
