"""What the configuration says about TLS, certificates' subjects and users, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker import config
from broker.errors import ConfigError
from broker.session.dn import parse
from broker.session.sasl import CertificateLogin

HASH = "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHRzb21lc2FsdA$aGFzaGhhc2hoYXNoaGFzaA"
FILES = '[tls]\ncertificate = "c.pem"\nkey = "c.key"\n'


@pytest.fixture
def load(tmp_path):
    def read(text, port_offset=0):
        file = tmp_path / "x.toml"
        file.write_text(text)
        return config.load(file, tmp_path, port_offset, {})

    return read


def test_listeners_have_the_ports_of_tls_and_the_files_lie_beside_the_configuration(load, tmp_path):
    text = (
        FILES
        + 'ca = "ca.pem"\n'
        + "".join(
            f'[[listener]]\nprotocol = "{one}"\ntls = true\n'
            for one in ("amqp", "stomp", "management")
        )
    )
    found = load(text, 7)
    assert [one.port for one in found.listeners] == [5678, 61621, 15678]
    tls = found.listeners[0].tls
    assert (tls.certificate, tls.key, tls.ca) == (
        tmp_path / "c.pem",
        tmp_path / "c.key",
        tmp_path / "ca.pem",
    )
    assert (tls.verify, tls.min_version) == ("optional", "1.2")


def test_absolute_files_stay(load):
    text = '[tls]\ncertificate = "/a/c.pem"\nkey = "/a/c.key"\n[[listener]]\nprotocol = "amqp"\ntls = true\n'
    assert load(text).listeners[0].tls.key == Path("/a/c.key")


@pytest.mark.parametrize(
    ("tls", "listener", "verify"),
    [
        ("", "", "none"),
        ('ca = "ca.pem"\n', "", "optional"),
        ('ca = "ca.pem"\nverify = "required"\n', "", "required"),
        ('ca = "ca.pem"\nverify = "required"\n', 'verify = "none"\n', "none"),
        ('ca = "ca.pem"\n', 'verify = "required"\n', "required"),
    ],
)
def test_verify_is_the_listeners_then_that_of_tls(load, tls, listener, verify):
    text = FILES + tls + '[[listener]]\nprotocol = "amqp"\ntls = true\n' + listener
    assert load(text).listeners[0].tls.verify == verify


def test_without_tls_there_is_none(load):
    assert [one.tls for one in load("").listeners] == [None] * len(load("").listeners)
    assert [one.tls for one in load(FILES).listeners] == [None] * len(load("").listeners)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('[[listener]]\nprotocol = "amqp"\ntls = true\n', "listener[0].tls: [tls] certificate and key are needed"),
        ('[tls]\ncertificate = "c"\n[[listener]]\nprotocol = "amqp"\ntls = true\n', "gridmsg certs host"),
        (FILES + '[[listener]]\nprotocol = "amqp"\ntls = true\nverify = "required"\n', "[tls] ca is needed"),
        ('[[listener]]\nprotocol = "amqp"\nverify = "required"\n', "there is no TLS on this listener"),
        (FILES + 'verify = "maybe"\n', "verify"),
        (FILES + 'min-version = "1.1"\n', "min-version"),
        (FILES + 'crl = "x"\n', "crl"),
        ('[auth.dn-map]\n"me" = "bob"\n', '"/DC=ch/CN=me" or "CN=me,DC=ch" expected'),
        ('[auth.dn-map]\n"/DC=ch/CN=me" = "a"\n"CN=me,DC=ch" = "b"\n', "the same subject as"),
        (f'[auth.users.a]\npassword = "{HASH}"\npermissions = {{"/" = ["(", "", ""]}}\n', "is no pattern"),
        ('[auth.users.a]\npassword = "$argon2id$v=19$m=99999999,t=1,p=1$c29tZXNhbHQ$aGFzaA"\n', "at most m="),
    ],
)  # fmt: skip
def test_what_is_refused(load, text, wanted):
    with pytest.raises(ConfigError) as caught:
        load(text)
    assert wanted in str(caught.value)
    assert "aGFzaA" not in str(caught.value)


def test_subjects_of_the_map_and_users_without_a_password(load):
    accounts = load('[auth.users.bob]\n[auth.dn-map]\n"/DC=ch/CN=me" = "bob"\n').accounts()
    login = accounts.authenticate(CertificateLogin(parse("CN=me,DC=ch")), is_loopback=False)
    identity = login.identity()
    assert identity.name == "bob" and identity.may_enter("/")
    assert accounts.users["bob"].password_hash == ""
