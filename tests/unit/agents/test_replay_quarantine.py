"""Refused requests are kept, with their reason, up to a bound."""

import json

from agents.replays.quarantine import Quarantine


def test_body_and_reason_are_kept(tmp_path):
    path = Quarantine(tmp_path / "q").keep(b"\xff{not json", "not JSON", 77)
    kept = json.loads(path.read_text())
    assert kept == {"reason": "not JSON", "refused_ms": 77, "body-base64": "/3tub3QganNvbg=="}


def test_the_oldest_goes_first_and_the_log_says_so(tmp_path, caplog):
    quarantine = Quarantine(tmp_path, files_max=2)
    paths = [quarantine.keep(b"%d" % n, "bad", n) for n in range(3)]
    assert [path.exists() for path in paths] == [False, True, True]
    assert "dropping" in caplog.text
    assert not list(tmp_path.glob("*.tmp"))
