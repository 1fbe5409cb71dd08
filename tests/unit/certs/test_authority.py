from __future__ import annotations

import datetime as dt
import stat

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from certs.authority import LOOPBACK_NAMES, Authority
from certs.errors import CertsFailure

NOW = dt.datetime(2026, 3, 1, 12, 0, 0, 5, tzinfo=dt.UTC)
CA = "/DC=ch/DC=site/CN=Authority"


@pytest.fixture
def authority(tmp_path):
    made = Authority(tmp_path / "certs", NOW)
    made.init(CA)
    return made


def extension(certificate, kind):
    return certificate.extensions.get_extension_for_class(kind)


def test_the_authority(authority):
    made = x509.load_pem_x509_certificate(authority.certificate.read_bytes())
    assert extension(made, x509.BasicConstraints).value == x509.BasicConstraints(True, 0)
    usage = extension(made, x509.KeyUsage)
    assert usage.critical and usage.value.key_cert_sign and usage.value.crl_sign
    assert not usage.value.digital_signature
    assert (made.not_valid_after_utc - NOW).days == 3652
    assert made.not_valid_before_utc < NOW
    made.verify_directly_issued_by(made)
    key = serialization.load_pem_private_key(authority.key.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name == "secp256r1"
    assert key.public_key() == made.public_key()


def test_nobody_else_may_read_a_key(authority):
    authority.host("broker.example.org")
    authority.client("/DC=ch/DC=site/CN=me")
    keys = list(authority.folder.rglob("*.key"))
    assert len(keys) == 3
    assert {stat.S_IMODE(key.stat().st_mode) for key in keys} == {0o600}
    folders = [authority.folder, authority.folder / "hosts", authority.folder / "clients"]
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in folders} == {0o700}
    assert not [one for one in authority.folder.rglob(".*")]


def test_a_folder_that_others_may_write_to_is_refused(tmp_path):
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(CertsFailure, match="may be written by others"):
        Authority(folder, NOW).init(CA)
    assert list(folder.iterdir()) == []


def test_a_folder_that_is_there_keeps_its_mode(tmp_path):
    folder = tmp_path / "there"
    folder.mkdir(mode=0o755)
    Authority(folder, NOW).init(CA)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755


def test_a_host(authority):
    made = authority.host("broker.example.org", ["10.0.0.7", *LOOPBACK_NAMES])
    chain = x509.load_pem_x509_certificates(made.certificate.read_bytes())
    root = x509.load_pem_x509_certificate(authority.certificate.read_bytes())
    assert len(chain) == 2 and chain[1] == root
    host = chain[0]
    host.verify_directly_issued_by(root)
    names = extension(host, x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["broker.example.org", "localhost"]
    assert [str(one) for one in names.get_values_for_type(x509.IPAddress)] == [
        "10.0.0.7",
        "127.0.0.1",
        "::1",
    ]
    assert set(extension(host, x509.ExtendedKeyUsage).value) == {
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.CLIENT_AUTH,
    }
    assert not extension(host, x509.BasicConstraints).value.ca
    assert (host.not_valid_after_utc - NOW).days == 396
    assert made.slash_name == "/DC=ch/DC=site/CN=broker.example.org"


@pytest.mark.parametrize("dn", ["/DC=ch/DC=site/CN=me", "CN=me,DC=site,DC=ch", "me"])
def test_a_client(authority, dn):
    made = authority.client(dn)
    client = x509.load_pem_x509_certificate(made.certificate.read_bytes())
    assert made.comma_name == "CN=me,DC=site,DC=ch"
    assert client.subject == made.subject
    assert list(extension(client, x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert (client.not_valid_after_utc - NOW).days == 364
    assert made.certificate.name == "me.pem"


def test_nothing_is_written_over(authority):
    before = {one: one.read_bytes() for one in authority.folder.rglob("*.*")}
    authority.client("me")
    for again in (lambda: authority.init(CA), lambda: authority.client("CN=me")):
        with pytest.raises(CertsFailure, match="is there"):
            again()
    assert {one: one.read_bytes() for one in before} == before


def test_serial_numbers_differ(authority):
    made = [authority.client(f"c{number}") for number in range(3)]
    serials = {
        x509.load_pem_x509_certificate(one.certificate.read_bytes()).serial_number for one in made
    }
    assert len(serials) == 3 and min(serials) > 2**63


def test_nothing_outlives_the_authority(tmp_path):
    authority = Authority(tmp_path / "certs", NOW)
    authority.init(CA, days=10)
    assert (authority.client("me").expires_at - NOW).days <= 10
    later = Authority(tmp_path / "certs", NOW + dt.timedelta(days=11))
    with pytest.raises(CertsFailure, match="expired 2026-03-11"):
        later.client("you")


def test_no_file_leads_out_of_the_folder(authority):
    made = authority.client("/DC=ch/CN=../../etc/x")
    assert made.certificate.parent == authority.folder / "clients"
    assert "/" not in made.certificate.name and not made.certificate.name.startswith(".")


@pytest.mark.parametrize("name", ["", "a b", "a/b", "-", "x" * 300, "a..b"])
def test_what_is_no_host_is_refused(authority, name):
    with pytest.raises(CertsFailure, match="host name or an address"):
        authority.host(name)


def test_what_is_missing_or_wrong_is_named(authority, tmp_path):
    with pytest.raises(CertsFailure, match="gridmsg certs init"):
        Authority(tmp_path / "none", NOW).host("h")
    other = Authority(tmp_path / "other", NOW)
    other.init(CA)
    authority.key.write_bytes(other.key.read_bytes())
    with pytest.raises(CertsFailure, match="is not the key of"):
        authority.host("h")
    authority.key.write_bytes(b"junk")
    with pytest.raises(CertsFailure, match=r"ca\.key"):
        authority.host("h")
    authority.key.unlink()
    with pytest.raises(CertsFailure, match="missing"):
        authority.host("h")
    assert not list(authority.folder.glob("hosts/*"))
