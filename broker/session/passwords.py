"""Argon2 hashes of passwords: made, checked, and refused when checking one would cost too much.

`argon2` is imported when the first hash is met: a broker that knows only guest starts without it.
Tests: tests/unit/broker/session/test_passwords.py.
"""

from __future__ import annotations

from typing import Final

PASSWORD_BYTES_MAX: Final = 4096
"""A longer password is refused before anything is computed of it."""
HASH_CHARACTERS_MAX: Final = 512
MEMORY_KIB_MAX: Final = 1 << 20
ROUNDS_MAX: Final = 32
LANES_MAX: Final = 16
ROUNDS, MEMORY_KIB, LANES = 2, 19 * 1024, 1
"""OWASP's least for Argon2id.  One lane: a check must leave a core of a small machine to the reactor."""
BUILT_IN: Final = "plain:"
"""Prefix of the one password that is not hashed, because everybody knows it: guest's."""


def hash_password(text: str) -> str:
    """Return the Argon2id hash of a password; takes tens of milliseconds and 19 MiB.  Raises ValueError."""
    from argon2 import PasswordHasher

    check_password(text)
    return PasswordHasher(ROUNDS, MEMORY_KIB, LANES).hash(text)


def check_password(text: str) -> None:
    """Raise ValueError unless the text may be a password."""
    if not text or len(text.encode("utf-8", "surrogatepass")) > PASSWORD_BYTES_MAX:
        raise ValueError(f"a password of 1 to {PASSWORD_BYTES_MAX} bytes expected")


def verify(known_hash: str, password: str) -> bool:
    """Whether the password is the one that was hashed; takes tens of milliseconds.  Thread-safe."""
    import argon2

    try:
        return argon2.PasswordHasher().verify(known_hash, password)
    except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
        return False


def objection(known_hash: str) -> str | None:
    """Why a hash cannot be taken, or None."""
    import argon2

    if len(known_hash) > HASH_CHARACTERS_MAX:
        return "an Argon2 hash expected"
    try:
        found = argon2.extract_parameters(known_hash)
    except (argon2.exceptions.InvalidHashError, ValueError):
        return "an Argon2 hash expected"
    if (
        found.memory_cost > MEMORY_KIB_MAX
        or found.time_cost > ROUNDS_MAX
        or found.parallelism > LANES_MAX
    ):
        return f"an Argon2 hash of at most m={MEMORY_KIB_MAX},t={ROUNDS_MAX},p={LANES_MAX} expected"
    return None
