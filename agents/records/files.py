"""Records in files, behind `gridmsg record send|check|convert`.

A file may hold what a probe would send (one record, an envelope, the replication form) or JSON (one record, an array,
one a line); the first character decides.
Tests: tests/unit/agents/records/test_fixtures.py, tests/interop/test_collector.py.
"""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Final, final
from urllib.parse import quote_plus, urlsplit

import msgspec

from agents.errors import AgentError, BadRecord, BadRequest
from agents.records.parse import RECORD_ROOTS, parse_record
from agents.records.payload import Form, split_payload
from agents.records.wire import decode_record

SEND_TIMEOUT_SECONDS: Final = 60.0
FILE_BYTES_MAX: Final = 64 * 1024 * 1024


@final
class FileRecord:
    """A record found in a file, or why it is none (`problem`); `number` counts from 1."""

    __slots__ = ("name", "number", "problem", "record")

    def __init__(
        self, number: int, name: str, record: dict[str, object] | None, problem: str
    ) -> None:
        self.number = number
        self.name = name
        self.record = record
        self.problem = problem


def read_records(path: Path) -> list[FileRecord]:
    """Return every record of a file in order, bad ones with their reason.

    Raises AgentError when the file cannot be read or is in none of the forms.
    """
    content = read_content(path)
    if content.lstrip()[:1] in {b"{", b"["}:
        return _json_records(path, content)
    try:
        items = split_payload(content).items
    except BadRequest as error:
        raise AgentError(f"{path}: {error.text}") from error
    found = []
    for number, item in enumerate(items, 1):
        record: dict[str, object] | None = None
        problem = item.problem
        if not problem and item.name not in RECORD_ROOTS:
            problem = f"{item.name} is not a kind of usage record"
        if not problem:
            try:
                record = dict(parse_record(item.source))
            except BadRecord as error:
                problem = error.text
        found.append(FileRecord(number, item.name, record, problem))
    return found


def read_content(path: Path) -> bytes:
    """Return a file's bytes; raise AgentError when it cannot be read or is larger than 64 MiB."""
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise AgentError(f"{path}: larger than {FILE_BYTES_MAX} bytes")
        return path.read_bytes()
    except OSError as error:
        raise AgentError(f"{path}: {error.strerror}") from error


def post_content(
    url: str, content: bytes, sender: str, context: ssl.SSLContext | None = None
) -> str:
    """Post a file's content to a collector as a probe does; return the answer's text (`OK` when it was taken).

    `url` is the collector's (`http://127.0.0.1:8880`, any path before `/gratia-servlets/rmi`); raises AgentError when
    nobody answers or the content is in none of the forms.
    """
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme not in {"http", "https"} or parts.hostname is None:
        raise AgentError(f"{url}: not a collector's address, such as http://127.0.0.1:8880")
    path, content_type, body = _request(parts.path.rstrip("/"), content, sender)
    host, port = parts.hostname, parts.port or 8880
    connection = (
        http.client.HTTPSConnection(host, port, timeout=SEND_TIMEOUT_SECONDS, context=context)
        if parts.scheme == "https"
        else http.client.HTTPConnection(host, port, timeout=SEND_TIMEOUT_SECONDS)
    )
    try:
        connection.request("POST", path, body, {"Content-Type": content_type})
        return connection.getresponse().read().decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise AgentError(f"no answer from the collector at {url}: {reason}") from error
    finally:
        connection.close()


def send_file(path: Path, url: str, sender: str, context: ssl.SSLContext | None = None) -> str:
    """Post one file to a collector; return the answer's text."""
    try:
        return post_content(url, read_content(path), sender, context)
    except BadRequest as error:
        raise AgentError(f"{path}: {error.text}") from error


def _request(prefix: str, content: bytes, sender: str) -> tuple[str, str, bytes]:
    """Return path, content type and body of the POST for a content."""
    if content.lstrip()[:1] in {b"{", b"["}:
        return f"{prefix}/records", "application/json", content
    payload = split_payload(content)
    fields = [("arg1", content), ("from", sender.encode())]
    if payload.form is Form.REPLICATION:
        fields += [("command", b"update"), ("bundlesize", str(len(payload.items)).encode())]
    elif payload.form is Form.ENVELOPE:
        fields.append(("command", b"multiupdate"))
    else:
        fields.append(("command", b"URLEncodedUpdate"))
    body = "&".join(f"{name}={quote_plus(value)}" for name, value in fields)
    form = "application/x-www-form-urlencoded"
    path = prefix if prefix.endswith("/rmi") else f"{prefix}/gratia-servlets/rmi"
    return path, form, body.encode("ascii")


def _json_records(path: Path, content: bytes) -> list[FileRecord]:
    sources: Sequence[bytes]
    try:
        whole: object = msgspec.json.decode(content)
        sources = (
            [msgspec.json.encode(value) for value in whole]
            if isinstance(whole, list)
            else [content]
        )
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        sources = [line for line in content.split(b"\n") if line.strip()]
    found = []
    for number, source in enumerate(sources, 1):
        try:
            record = decode_record(source)
            found.append(FileRecord(number, str(record.get("type", "")), record, ""))
        except BadRecord as error:
            found.append(FileRecord(number, "", None, error.text))
    if found and all(entry.problem for entry in found):
        raise AgentError(f"{path}: {found[0].problem}")
    return found
