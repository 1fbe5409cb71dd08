"""What the certificate commands refuse."""

from __future__ import annotations


class CertsFailure(Exception):
    """Something that could not be made or read; the text names the file and says what to do."""
