from __future__ import annotations

import argon2
import pytest

from broker.session import passwords


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """The same algorithm with the least cost: a unit test has ten milliseconds."""
    cheap = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    monkeypatch.setattr(argon2, "PasswordHasher", lambda *_: cheap)


def test_a_hash_knows_its_password():
    known = passwords.hash_password("päss")
    assert known.startswith("$argon2id$") and "päss" not in known
    assert passwords.hash_password("päss") != known
    assert passwords.verify(known, "päss")
    assert not passwords.verify(known, "pass")
    assert not passwords.verify("junk", "pass")
    assert passwords.objection(known) is None


@pytest.mark.parametrize("text", ["", "x" * 5000])
def test_passwords_have_bounds(text):
    with pytest.raises(ValueError):
        passwords.hash_password(text)


@pytest.mark.parametrize(
    "known",
    [
        "",
        "secret",
        "$2b$12$abcdefghijklmnopqrstuv",
        "$argon2id$x",
        "$argon2id$v=19$m=99999999,t=1,p=1$c29tZXNhbHQ$aGFzaA",
        "$argon2id$v=19$m=8,t=999,p=1$c29tZXNhbHQ$aGFzaA",
        "$argon2id$v=19$m=800,t=1,p=99$c29tZXNhbHQ$aGFzaA",
        "$argon2id$v=19$m=8,t=1,p=1$" + "a" * 1000,
    ],
)
def test_hashes_that_are_none_or_cost_too_much(known):
    assert passwords.objection(known) is not None
