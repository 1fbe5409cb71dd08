"""Bad input from outside, against one running site: each gets its clear answer, and nothing good beside it is lost."""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pika
import pytest
from pika.exceptions import ChannelClosedByBroker, ConnectionClosedByBroker, UnroutableError

from tests.support.ports import free_offset
from tests.support.quiet import Stopwatch
from tests.support.site import ROOT, Site, raw_job_ids, wait_until_stored
from tests.support.usage import bundle_form, record_xml
from tests.support.waiting import PATIENCE_SECONDS

pytestmark = pytest.mark.interop

TOO_LARGE = "Error: java.lang.IllegalStateException: Post too large"
BOMB = (
    '<?xml version="1.0"?><!DOCTYPE r [<!ENTITY a "ha">'
    + "".join(
        f'<!ENTITY {new} "{"&" + old + ";" * 1}{("&" + old + ";") * 9}">'
        for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    )
    + "]>"
)
LOG_LINE = re.compile(r"\d{4}-\d\d-\d\dT\S+ (INFO|WARNING) ")
LOGIN = b"CONNECT\naccept-version:1.2\nhost:/\nlogin:guest\npasscode:guest\n\n\0"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("site"))
    try:
        made.start_site()
        yield made
    finally:
        made.close()


def form(payload: str | bytes, command: str = "multiupdate", **fields: str) -> bytes:
    return urlencode({"command": command, "arg1": payload, "from": "probe:bad", **fields}).encode()


def envelope(*records: str) -> str:
    return f'<?xml version="1.0"?><RecordEnvelope>{"".join(records)}</RecordEnvelope>'


def post(site: Site, path: str, body: bytes) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", site.port(8880), timeout=PATIENCE_SECONDS)
    try:
        connection.request("POST", path, body)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def quarantined(site: Site) -> list[dict[str, str]]:
    folder = site.data / "collector" / "quarantine"
    return [json.loads(path.read_text()) for path in folder.glob("*.json")]


def reason_of(site: Site, original: str) -> str:
    """Why a record was put aside; its original must be there whole."""
    reasons = [each["reason"] for each in quarantined(site) if each.get("original") == original]
    assert len(reasons) == 1, f"not in quarantine once: {original}"
    return reasons[0]


def stored_good(site: Site, numbers: range, sender: str) -> None:
    """Exactly the good records of a bundle are stored, each once."""
    wanted = {f"{sender}#{number}" for number in numbers}
    stored = [job for job in wait_until_stored(site, wanted) if job.startswith(f"{sender}#")]
    assert sorted(stored) == sorted(wanted)


def test_one_wrong_timestamp_among_99_good_records(site: Site) -> None:
    good = [record_xml(number, sender="times") for number in range(99)]
    bad = record_xml(99, sender="times").replace("<EndTime>2", "<EndTime>yesterday ")
    assert site.post(bundle_form([*good[:50], bad, *good[50:]])) == "OK"
    stored_good(site, range(99), "times")
    assert "EndTime 'yesterday" in reason_of(site, bad)
    # A probe that sends it again finds the same answer, and the quarantine does not grow.
    before = len(quarantined(site))
    assert site.post(bundle_form([*good[:50], bad, *good[50:]])) == "OK"
    assert len(quarantined(site)) == before
    stored_good(site, range(99), "times")


def test_broken_xml(site: Site) -> None:
    good = [record_xml(number, sender="broken") for number in range(2)]
    bad = "<JobUsageRecord><GlobalJobId>broken#2</JobUsageRecord>"
    assert site.post(form(envelope(good[0], bad, good[1]))) == "OK"
    stored_good(site, range(2), "broken")
    assert "mismatched tag" in reason_of(site, bad)
    cut = envelope(*[record_xml(number, sender="cut") for number in range(3)])[:-400]
    status, text = post(site, "/gratia-servlets/rmi", form(cut))
    assert (status, text) == (
        400,
        "Error handling request: error unmarshalling xml: the envelope has no end",
    )


def test_entity_bombs(site: Site) -> None:
    watch = Stopwatch(site.processes["up"].pid)
    bomb = "<JobUsageRecord><JobName>&i;</JobName></JobUsageRecord>"
    good = record_xml(0, sender="bomb")
    assert site.post(form(BOMB + envelope(good, bomb).partition("?>")[2])) == "OK"
    stored_good(site, range(1), "bomb")
    assert "undefined entity" in reason_of(site, bomb)
    outside = "<JobUsageRecord><JobName>&x;</JobName></JobUsageRecord>"
    system = '<!DOCTYPE r [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
    assert site.post(form(system + outside, "URLEncodedUpdate")) == "OK"
    assert "undefined entity" in reason_of(site, outside)
    # Expanded, it would be minutes and gigabytes.
    watch.judge(time.monotonic() - watch.started_at, 20)


def test_bytes_that_are_no_utf_8(site: Site) -> None:
    good, bad = record_xml(0, sender="bytes"), record_xml(1, sender="bytes")
    payload = envelope(good, bad).encode().replace(b"bytes#1", b"bytes\xff1")
    assert site.post(form(payload)) == "OK"
    stored_good(site, range(1), "bytes")
    kept = [each for each in quarantined(site) if "original-base64" in each]
    assert [base64.b64decode(each["original-base64"]) for each in kept] == [
        bad.encode().replace(b"bytes#1", b"bytes\xff1")
    ]
    assert "not UTF-8" in kept[0]["reason"]


def test_requests_that_are_refused_as_a_whole(site: Site) -> None:
    """The sender keeps its records: nothing of them is stored, nothing is in quarantine."""
    before = len(quarantined(site))
    one = record_xml(0, sender="refused")
    two = f"replication|{one}|||replication|{record_xml(1, sender='refused')}|||"
    refused = "Error handling request: "
    cases = [
        (form(two, "update", bundlesize="5"), 400, f"{refused}number of records in bundle (2)"),
        (form(two, "update", bundlesize="x"), 400, f"{refused}error interpreting bundlesize"),
        (form(one, "frobnicate"), 400, "Error: Unknown Command: frobnicate"),
        (form("x" * 11_000_000), 413, TOO_LARGE),
        (form(one + " " * 11_000_000), 413, TOO_LARGE),
        (b"command=update&from=x", 400, f'{refused}missing key "arg1"'),
        (
            urlencode({"command": "update", "arg1": one}).encode(),
            400,
            f'{refused}missing key "from"',
        ),
        (b"\0\xff\xfe", 400, f'{refused}missing key "command"'),
        (b"", 400, f'{refused}missing key "command"'),
    ]
    for body, status, text in cases:
        found_status, found_text = post(site, "/somewhere/gratia-servlets/rmi", body)
        assert (found_status, found_text[: len(text)]) == (status, text), body[:60]
    for body, text in [(b"", "an empty body"), (b"{", "neither JSON"), (b"\xff", "neither JSON")]:
        status, found = post(site, "/records", body)
        assert status == 400 and text in found, found
    status, found = post(site, "/records", b'[{"EndTime":"now"},{"a":{}},7]')
    answer = json.loads(found)
    assert (status, answer["accepted"], answer["quarantined-count"]) == (200, 0, 3)
    assert len(quarantined(site)) == before + 3
    assert site.post(form(one)) == "OK"
    stored_good(site, range(1), "refused")


def stomp_answer(site: Site, *frames: bytes) -> str:
    """The ERROR that frames get after a login; the broker closes the connection behind it."""
    with socket.create_connection(("127.0.0.1", site.port(61613)), PATIENCE_SECONDS) as peer:
        peer.sendall(LOGIN)
        assert peer.recv(4096).startswith(b"CONNECTED")
        answer = b""
        try:
            for frame in frames:
                peer.sendall(frame)
            while chunk := peer.recv(65536):
                answer += chunk
        except ConnectionError:
            # Reset while we still wrote what it would not read: what it said came before.
            pass
    return answer.decode()


@pytest.mark.parametrize(
    ("frame", "says"),
    [
        (b"SEND\ndestination:/nonsense\nreceipt:1\n\nx\0", "/gracc.*.raw"),
        (b"SEND\ndestination:/exchange/missing/k\n\nx\0", "no exchange 'missing'"),
        (
            b"SEND\ndestination:/exchange/amq.direct/x\nmandatory:true\n\nx\0",
            "/exchange/amq.direct/x",
        ),
        (b"SUBSCRIBE\ndestination:/amq/queue/missing\nid:1\n\n\0", "no queue 'missing'"),
        (b"SUBSCRIBE\ndestination:/nonsense\nid:1\n\n\0", "/grace.*.requests"),
        (b"SEND\n\nx\0", "must include a 'destination' header"),
        (b"SEND\ndestination:/queue/\xff\n\nx\0", "not UTF-8"),
        (b"SEND\ndestination:/queue/a\ncontent-length:17000000\n\nx", "longer than 16777216 bytes"),
        (b"SEND\ndestination:/queue/a\nh:" + b"x" * 110_000, "longer than 102400 bytes"),
        (b"SEND\ndestination:/queue/a\n" + b"h:x\n" * 101 + b"\nx\0", "More than 100 headers"),
        (b"FROB\n\n\0", 'Could not interpret command "FROB"'),
        (b"X" * 5000, ""),
    ],
    ids=lambda value: value[:40].decode("ascii", "replace") if isinstance(value, bytes) else "",
)
def test_stomp_frames_that_cannot_be(site: Site, frame: bytes, says: str) -> None:
    answer = stomp_answer(site, frame)
    assert answer.startswith("ERROR\n") and says in answer


def amqp(site: Site) -> pika.BlockingConnection:
    return pika.BlockingConnection(
        pika.ConnectionParameters("127.0.0.1", site.port(5672), heartbeat=0)
    )


def test_amqp_names_that_are_not_there(site: Site) -> None:
    with amqp(site) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        with pytest.raises(ChannelClosedByBroker) as missing:
            channel.basic_publish("missing", "k", b"x")
        assert missing.value.reply_code == 404 and "missing" in missing.value.reply_text
        channel = connection.channel()
        with pytest.raises(ChannelClosedByBroker) as missing:
            channel.basic_consume("missing", lambda *_: None)
        assert missing.value.reply_code == 404 and "missing" in missing.value.reply_text
        channel = connection.channel()
        channel.confirm_delivery()
        with pytest.raises(UnroutableError):
            channel.basic_publish("", "missing", b"x", mandatory=True)


def test_amqp_frames_over_the_limits(site: Site) -> None:
    with amqp(site) as connection:
        channel = connection.channel()
        with pytest.raises((ChannelClosedByBroker, ConnectionClosedByBroker)) as refused:
            channel.basic_publish("", "x", b"x" * (17 << 20))
            connection.process_data_events(PATIENCE_SECONDS)
        assert "16777216" in refused.value.reply_text
    with amqp(site) as connection:
        peer = connection._impl._transport._sock
        peer.setblocking(True)
        peer.sendall(struct.pack(">BHI", 3, 1, 1 << 30) + b"x" * 1000)
        with pytest.raises(ConnectionClosedByBroker) as refused:
            connection.channel()
        assert refused.value.reply_code == 501


def test_what_is_no_protocol_at_all(site: Site) -> None:
    """Other protocols' greetings and noise on each port: an answer or the end of the connection, and the site goes on."""
    noises = (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"AMQP\x01\x02\x03\x04", bytes(range(256)) * 40)
    for port in (5672, 61613, 8880, 15672):
        for noise in noises:
            with socket.create_connection(("127.0.0.1", site.port(port)), PATIENCE_SECONDS) as peer:
                peer.sendall(noise)
                peer.shutdown(socket.SHUT_WR)
                try:
                    while peer.recv(65536):
                        pass
                except ConnectionError:
                    pass
    stored_before = len(raw_job_ids(site.data / "records.sqlite"))
    assert site.post(bundle_form([record_xml(0, sender=f"after{stored_before}")])) == "OK"
    stored_good(site, range(1), f"after{stored_before}")
    assert "Traceback" not in site.logs()


# Commands and folders: each refusal is one line on stderr, with status 1.


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that says what to do; a process that began its work may have logged before."""
    assert done.returncode == 1, done.stdout + done.stderr
    said = [line for line in done.stderr.splitlines() if not LOG_LINE.match(line)]
    assert len(said) == 1 and said[0].startswith("gridmsg"), done.stderr
    return said[0]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[broker]\nnme = 'x'\n", ["gridmsg.toml:2", "broker.nme", "name"]),
        ("[brokr]\n", ["gridmsg.toml:1", "brokr"]),
        ("[store]\nsync = 'sometimes'\n", ["gridmsg.toml:2", "store.sync", '"always"']),
        ("[collector]\nadress = 'x'\n", ["gridmsg.toml", "collector.adress"]),
        ("[[database]]\nprefetch = 0\n", ["gridmsg.toml", "prefetch"]),
        ("[broker\n", ["gridmsg.toml", "line 1"]),
    ],
)
@pytest.mark.parametrize("command", [("up",), ("broker", "check"), ("broker", "run")], ids=" ".join)
def test_unknown_configuration(
    tmp_path: Path, command: tuple[str, ...], text: str, says: list[str]
) -> None:
    site = Site(tmp_path / "site", text)
    line = refusal(site.run(*command, check=False))
    assert [word for word in says if word not in line] == [], line
    assert not site.data.exists(), "a refused start leaves nothing behind"


def test_a_data_folder_of_another_version(tmp_path: Path) -> None:
    site = Site(tmp_path / "site")
    site.start_broker()
    assert site.stop("broker", "run") == 0
    mark = site.data / "broker" / "FORMAT"
    text = mark.read_text()
    lines = text.splitlines(keepends=True)[:2]
    other = lines[0].replace(" 2", " 7") + lines[1]
    before = {path: path.stat().st_size for path in site.data.rglob("*")}
    mark.write_text(f"{other}crc {zlib.crc32(other.encode()):08x}\n")
    for command in (("broker", "run"), ("up",)):
        line = refusal(site.run(*command, check=False))
        assert "gridmsg-store 7" in line and "this program reads gridmsg-store 2" in line
        assert str(mark) in line and "start the version that wrote it" in line
    mark.write_text(text)
    after = {path: path.stat().st_size for path in site.data.rglob("*")}
    assert {path: size for path, size in after.items() if path in before} == before
    site.start_broker()
    site.close()


def test_a_port_in_use(tmp_path: Path) -> None:
    site = Site(tmp_path / "site")
    for port in (61613, 8880):
        with socket.create_server(("127.0.0.1", site.port(port))):
            line = refusal(site.run("up", check=False))
            assert str(site.port(port)) in line and "in use" in line and "--port-offset" in line
            if port == 61613:
                line = refusal(site.run("broker", "run", check=False))
                assert str(site.port(port)) in line and "in use" in line
    try:
        site.start_site()
    finally:
        site.close()


def test_a_folder_without_write_permission(tmp_path: Path) -> None:
    """As a user whom permissions hold back: root gives up its right to pass them over."""
    prefix: list[str] = []
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root without setpriv (Debian: apt install util-linux) may write anywhere")
        prefix = ["setpriv", "--inh-caps=-dac_override", "--bounding-set=-dac_override", "--"]
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o555)
    data = folder / "data"
    options = ["--data", str(data), "--port-offset", str(free_offset())]
    for words in (["up"], ["broker", "run"], ["collector", "run"], ["database", "run"]):
        done = subprocess.run(
            [*prefix, sys.executable, "-m", "broker", *words, *options],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
            timeout=PATIENCE_SECONDS,
        )
        line = refusal(done)
        assert str(data) in line and ("cannot" in line or "ermission" in line), line
    assert not data.exists()
