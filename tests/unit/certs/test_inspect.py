from __future__ import annotations

import datetime as dt

import pytest

from certs import inspect
from certs.authority import Authority
from certs.errors import CertsFailure

NOW = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)


@pytest.fixture
def authority(tmp_path):
    made = Authority(tmp_path / "certs", NOW)
    made.init("/DC=ch/CN=Authority")
    made.host("h.example.org")
    made.client("me")
    return made


def faults(authority, now=NOW):
    return {
        one.file.name: (one.faults, one.warnings)
        for one in inspect.check_folder(authority.folder, now)
    }


def test_good_ones(authority):
    assert faults(authority) == {
        "ca.pem": ([], []),
        "h.example.org.pem": ([], []),
        "me.pem": ([], []),
    }


def test_soon_and_expired(authority):
    found = faults(authority, NOW + dt.timedelta(days=350))
    assert found["me.pem"] == ([], ["expires in 15 days"])
    found = faults(authority, NOW + dt.timedelta(days=380))
    assert found["me.pem"][0] == ["expired 2027-03-01"]
    assert found["h.example.org.pem"] == ([], ["expires in 17 days"])
    assert faults(authority, NOW - dt.timedelta(days=1))["me.pem"][0]


def test_foreign(authority, tmp_path):
    other = Authority(tmp_path / "other", NOW)
    other.init("/DC=ch/CN=Authority")
    stranger = other.client("stranger")
    place = authority.folder / "clients" / "stranger.pem"
    place.write_bytes(stranger.certificate.read_bytes())
    found = faults(authority)["stranger.pem"]
    assert found == (
        ["foreign: not signed by /DC=ch/CN=Authority"],
        ["no key beside it (stranger.key)"],
    )


def test_keys(authority):
    key = authority.folder / "clients" / "me.key"
    key.chmod(0o640)
    assert "may be read by others (mode 640): chmod 600" in faults(authority)["me.pem"][0][0]
    key.chmod(0o600)
    key.write_bytes((authority.folder / "hosts" / "h.example.org.key").read_bytes())
    assert faults(authority)["me.pem"][0] == [f"{key} is not its key"]
    key.write_text("junk")
    assert "no private key" in faults(authority)["me.pem"][0][0]


def test_describe(authority):
    shown = inspect.describe(inspect.load(authority.folder / "hosts" / "h.example.org.pem")[0])
    assert shown["subject"] == "/DC=ch/CN=h.example.org"
    assert shown["subject_rfc4514"] == "CN=h.example.org,DC=ch"
    assert shown["names"] == ["h.example.org"]
    assert shown["usages"] == ["serverAuth", "clientAuth"]
    assert not shown["is_authority"]
    assert inspect.describe(inspect.load(authority.certificate)[0])["is_authority"]


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(CertsFailure, match="No such file"):
        inspect.load(tmp_path / "none.pem")
    (tmp_path / "junk.pem").write_text("junk")
    with pytest.raises(CertsFailure, match="no certificate"):
        inspect.load(tmp_path / "junk.pem")
    with pytest.raises(CertsFailure, match="gridmsg certs init"):
        inspect.check_folder(tmp_path, NOW)
