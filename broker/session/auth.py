"""Who a peer is and what it may do.

Rights are RabbitMQ's: per vhost three patterns (configure, write, read) on resource names, and per topic exchange two on
routing keys.  An `Identity` sees its user's rights as they are now, not as they were at login.  Passwords are checked by Argon2
outside the reactor thread; a right one is remembered as a keyed hash, so that a storm of reconnecting clients costs nothing.
Guesses slow down (`session.guesses`), and a refusal says by neither text nor time whether there is such a user.
Who changes accounts: `session.accounts`.  Tests: tests/unit/broker/session/test_auth.py, test_auth_rights.py, test_auth_guesses.py.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Final, Literal, Protocol, final, runtime_checkable

from broker.errors import AccessRefused
from broker.session.dn import DN, comma_form, parse
from broker.session.fairness import FairQueue, RunLater
from broker.session.guesses import FailedLogins, source_of
from broker.session.passwords import BUILT_IN, PASSWORD_BYTES_MAX
from broker.session.sasl import CertificateLogin, Credentials, PasswordLogin

log = logging.getLogger(__name__)

Operation = Literal["configure", "write", "read"]
TopicOperation = Literal["write", "read"]
Origin = Literal["built-in", "configuration", "store"]

ADMINISTRATOR: Final = "administrator"
PATTERN_CHARACTERS_MAX: Final = 1000
JOINED_MAX: Final = 20_000
"""Logins that wait for one and the same check; one more is refused."""
REFUSAL_SECONDS: Final = 0.5
"""A refusal comes so long after the question at least: longer than what a right name costs more than a wrong one."""
REMEMBERED_MAX: Final = 10_000
ALL_RIGHTS: Final = (".*", ".*", ".*")


@runtime_checkable
class LoggedIn(Protocol):
    """What a session has besides `session.base.Session`: its certificate, and rights that may change."""

    certificate: DN | None
    """The subject of the verified client certificate; set before the first byte is received."""

    def recheck(self) -> None:
        """Accounts or vhosts changed: ask for all rights anew, and close if the peer may not be here any more."""
        ...


def compile_pattern(text: str) -> re.Pattern[str]:
    """Compile a pattern of rights: found anywhere in the name, and empty matches the empty name only (RabbitMQ).

    Raises ValueError.
    """
    if len(text) > PATTERN_CHARACTERS_MAX:
        raise ValueError(f"a pattern has at most {PATTERN_CHARACTERS_MAX} characters")
    try:
        return re.compile(text or r"\A\Z")
    except re.error as error:
        raise ValueError(f"'{text[:100]}' is no pattern: {error}") from None


@final
class Rights:
    """What a user may do in one vhost; `topics` maps exchanges to patterns (write, read) on routing keys."""

    __slots__ = ("_compiled", "patterns", "topics")

    def __init__(self, patterns: tuple[str, str, str]) -> None:
        configure, write, read = map(compile_pattern, patterns)
        self.patterns = patterns
        self._compiled = {"configure": configure, "write": write, "read": read}
        self.topics: dict[str, tuple[str, str]] = {}

    def allow(self, operation: Operation, name: str) -> bool:
        """Whether the operation is allowed on a resource of that name."""
        return self._compiled[operation].search(name) is not None


@final
class User:
    """An account.  `password_hash` empty: no login by password."""

    __slots__ = ("is_gone", "name", "origin", "password_hash", "rights", "subject", "tags")

    def __init__(
        self,
        name: str,
        password_hash: str,
        origin: Origin,
        tags: Iterable[str] = (),
        rights: Mapping[str, tuple[str, str, str]] | None = None,
    ) -> None:
        self.name = name
        self.password_hash = password_hash
        self.origin = origin
        self.tags = tuple(tags)
        self.rights = {vhost: Rights(three) for vhost, three in (rights or {}).items()}
        self.is_gone = False
        self.subject = _subject_of(name)


def _subject_of(name: str) -> DN | None:
    """The distinguished name that a user name is, or None."""
    if "=" not in name:
        return None
    try:
        return parse(name)
    except ValueError:
        return None


@final
class Identity:
    """A user who has logged in."""

    __slots__ = ("_user", "name")

    def __init__(self, user: User) -> None:
        self._user = user
        self.name = user.name

    @property
    def is_valid(self) -> bool:
        """Whether the user still exists."""
        return not self._user.is_gone

    @property
    def tags(self) -> tuple[str, ...]:
        """The user's tags."""
        return self._user.tags

    @property
    def is_administrator(self) -> bool:
        """Whether the user may change accounts and see everything."""
        return ADMINISTRATOR in self._user.tags and not self._user.is_gone

    def may_send_as(self, user: str) -> bool:
        """Whether a message may say that this user sent it: the user's own name, or any with the tag `impersonator`."""
        return user == self.name or "impersonator" in self._user.tags

    def may_enter(self, vhost: str) -> bool:
        """Whether the user has any permissions in the vhost."""
        return vhost in self._user.rights and not self._user.is_gone

    def check(
        self, vhost: str, operation: Operation, kind: Literal["queue", "exchange"], name: str
    ) -> None:
        """Raise AccessRefused, with RabbitMQ's text, unless the user has the right."""
        user = self._user
        rights = user.rights.get(vhost)
        shown = name or ("amq.default" if kind == "exchange" else name)
        if rights is not None and not user.is_gone and rights.allow(operation, shown):
            return
        raise AccessRefused(
            f"{operation} access to {kind} '{shown}' in vhost '{vhost}' refused for user '{self.name}'"
        )

    def has_topic_rights(self, vhost: str, exchange: str) -> bool:
        """Whether routing keys of an exchange are restricted for the user."""
        rights = self._user.rights.get(vhost)
        return rights is not None and exchange in rights.topics

    def check_topic(self, vhost: str, operation: TopicOperation, exchange: str, key: str) -> None:
        """Raise AccessRefused unless the routing key is allowed.  To be asked for topic exchanges only.

        Without a topic right for the exchange all keys are allowed (RabbitMQ).  `{username}` and `{vhost}` stand for
        the user's and the vhost's name in a pattern.
        """
        user = self._user
        rights = user.rights.get(vhost)
        if rights is not None and not user.is_gone:
            two = rights.topics.get(exchange)
            if two is None:
                return
            text = two[0] if operation == "write" else two[1]
            text = text.replace("{username}", re.escape(self.name))
            text = text.replace("{vhost}", re.escape(vhost))
            if re.search(text or r"\A\Z", key) is not None:
                return
        raise AccessRefused(
            f"{operation} access to topic '{key}' in exchange '{exchange}' in vhost '{vhost}' refused for user "
            f"'{self.name}'"
        )


@final
class Login:
    """An attempt to log in; settled at once, or later by `on_settled` in the reactor thread.

    `on_entered` is called before that where it succeeds.
    """

    __slots__ = ("_identity", "_refusal", "is_settled", "on_entered", "on_settled")

    def __init__(self) -> None:
        self.is_settled = False
        self.on_entered: Callable[[], None] | None = None
        self.on_settled: Callable[[], None] | None = None
        self._identity: Identity | None = None
        self._refusal: AccessRefused | None = None

    def identity(self) -> Identity:
        """Who has logged in; raises AccessRefused.  Only when settled."""
        if self._identity is None:
            assert self._refusal is not None, (
                "a login is asked for its outcome before it is settled"
            )
            raise self._refusal
        return self._identity

    def settle(self, outcome: Identity | AccessRefused) -> None:
        """Note the outcome and tell who waits."""
        self.is_settled = True
        if isinstance(outcome, Identity):
            self._identity = outcome
            if self.on_entered is not None:
                self.on_entered()
        else:
            self._refusal = outcome
        if self.on_settled is not None:
            self.on_settled()


CallLater = Callable[[float, Callable[[], None]], object]
"""Calls after so many seconds."""


@final
class _Guess:
    """A name and password from somewhere, until its login is settled.

    `digest` stands for the password, keyed; `stamp` for the password tried on the account as it was.
    """

    __slots__ = (
        "began_at",
        "digest",
        "is_loopback",
        "login",
        "name",
        "password",
        "source",
        "stamp",
    )

    def __init__(
        self, login: Login, credentials: PasswordLogin, is_loopback: bool, source: str
    ) -> None:
        self.login = login
        self.name = credentials.name
        self.password = credentials.password
        self.is_loopback = is_loopback
        self.source = source
        self.digest = b""
        self.stamp = b""
        self.began_at = 0.0


@final
class Accounts:
    """The users a broker knows, and logging in.

    `passwords` maps names to either `plain:<text>` (only for the built-in guest) or an Argon2 hash; `guest` is accepted from
    loopback addresses only.  `subjects` maps certificate subjects to user names.  `on_entered` hears of each peer that has
    logged in.  Without `check_later` (tests) Argon2 runs where it is asked for; without `slow_down` guesses are answered
    at once.
    """

    def __init__(
        self,
        passwords: Mapping[str, str],
        permissions: Mapping[str, Mapping[str, tuple[str, str, str]]],
        verify_hash: Callable[[str, str], bool],
        administrators: frozenset[str] = frozenset(),
        subjects: Mapping[DN, str] | None = None,
    ) -> None:
        self.users: dict[str, User] = {}
        self.check_later: RunLater | None = None
        self.on_entered: Callable[[str], None] | None = None
        self._checks = FairQueue(self._run_later)
        self._failed = FailedLogins()
        self._now: Callable[[], float] = lambda: 0.0
        self._call_later: CallLater | None = None
        self._subjects = dict(subjects or {})
        self._named: dict[DN, str] = {}
        self._verify_hash = verify_hash
        self._remember_key = secrets.token_bytes(32)
        self._remembered: dict[str, tuple[str, bytes]] = {}
        self._waiting: dict[tuple[str, str, bytes], list[_Guess]] = {}
        for name, known in passwords.items():
            origin: Origin = "built-in" if known.startswith(BUILT_IN) else "configuration"
            tags = (ADMINISTRATOR,) if name in administrators else ()
            self.add(User(name, known, origin, tags, permissions.get(name)))

    @classmethod
    def guest_only(cls, vhosts: tuple[str, ...] = ("/",)) -> Accounts:
        """The accounts of a fresh broker: guest/guest, from loopback, with every right."""
        return cls(
            {"guest": "plain:guest"},
            {"guest": dict.fromkeys(vhosts, ALL_RIGHTS)},
            lambda _hash, _password: False,
            frozenset({"guest"}),
        )

    # Users

    def add(self, user: User) -> None:
        """Add or replace a user; raises ValueError if another one is the same name in the other spelling."""
        if user.subject is not None:
            other = self._named.get(user.subject)
            if other is not None and other != user.name:
                raise ValueError(f"user '{other}' is the same distinguished name")
        self.remove(user.name)
        self.users[user.name] = user
        if user.subject is not None:
            self._named[user.subject] = user.name

    def remove(self, name: str) -> None:
        """Forget a user, if there is one; whoever has logged in as it has no rights any more."""
        user = self.users.pop(name, None)
        self._remembered.pop(name, None)
        if user is not None:
            user.is_gone = True
            if user.subject is not None:
                self._named.pop(user.subject, None)

    # Logging in

    def login(self, name: str, password: str, is_loopback: bool) -> Identity:
        """Log in by password where Argon2 may run at once: tests and tools.  Raises AccessRefused."""
        check_later, self.check_later = self.check_later, None
        call_later, self._call_later = self._call_later, None
        try:
            return self.authenticate(PasswordLogin(name, password), is_loopback).identity()
        finally:
            self.check_later, self._call_later = check_later, call_later

    def slow_down(self, now: Callable[[], float], call_later: CallLater) -> None:
        """Make who guesses wait, and refusals come late.  `now` is a clock that never goes back."""
        self._now = now
        self._call_later = call_later

    def authenticate(self, credentials: Credentials, is_loopback: bool, peer: str = "") -> Login:
        """Find out who a peer is, which is "ADDRESS:PORT".

        The login may be settled only later; set its `on_settled` then.
        """
        login = Login()
        if self.on_entered is not None:
            login.on_entered = partial(self.on_entered, peer)
        if isinstance(credentials, CertificateLogin):
            login.settle(self._by_certificate(credentials.subject, is_loopback))
        else:
            self._by_password(_Guess(login, credentials, is_loopback, source_of(peer)))
        return login

    def work_later(
        self,
        peer: str,
        work: Callable[[], bool],
        done: Callable[[bool], None],
        refused: Callable[[], None],
    ) -> None:
        """Run other slow work, such as hashing, in the turn of who asked for it; `done` is called in the reactor thread."""
        if self.check_later is None:
            done(work())
        else:
            self._checks.add(source_of(peer), work, done, refused)

    def _run_later(self, work: Callable[[], bool], done: Callable[[bool], None]) -> None:
        assert self.check_later is not None, "work is queued for another thread only"
        self.check_later(work, done)

    def _by_certificate(self, subject: DN, is_loopback: bool) -> Identity | AccessRefused:
        name = self._subjects.get(subject) or self._named.get(subject)
        user = self.users.get(name) if name is not None else None
        if user is None:
            return _refused(comma_form(subject))
        return _admitted(user, is_loopback)

    def _by_password(self, guess: _Guess) -> None:
        """Look at a guess now, or after the wait that its source has brought upon itself."""
        name = guess.name
        if name == "guest" and not guess.is_loopback:
            # Before its password is looked at: nobody elsewhere learns whether it is the right one.
            guess.login.settle(AccessRefused("non-loopback access denied"))
            return
        given = guess.password.encode("utf-8", "surrogatepass")
        if len(given) > PASSWORD_BYTES_MAX:
            guess.login.settle(_refused(name))
            return
        guess.digest = hmac.digest(self._remember_key, given, hashlib.sha256)
        if self._call_later is None:
            self._look(guess)
            return
        guess.began_at = now = self._now()
        guess.stamp = self._stamp(guess)
        if self._failed.is_known_wrong(guess.source, name, guess.stamp):
            self._settle(guess, _refused(name))
            return
        wait_seconds = self._failed.wait_seconds(guess.source, name, now)
        if wait_seconds is None:
            log.warning(
                "login of '%s' from %s refused without a look: too many wrong passwords from there",
                shown(name),
                guess.source,
            )
            self._settle(guess, _refused(name))
        elif wait_seconds:
            self._call_later(wait_seconds, lambda: self._look(guess))
        else:
            self._look(guess)

    def _stamp(self, guess: _Guess) -> bytes:
        """What a wrong guess is known by: the password, and the account as it is looked at."""
        user = self.users.get(guess.name)
        known = user.password_hash if user is not None else ""
        return hmac.digest(self._remember_key, guess.digest + known.encode(), hashlib.sha256)

    def _look(self, guess: _Guess) -> None:
        user = self.users.get(guess.name)
        if self._call_later is not None:
            guess.stamp = self._stamp(guess)
        if user is None or not user.password_hash:
            self._outcome(guess, user, is_right=False)
            return
        known = user.password_hash
        if known.startswith(BUILT_IN):
            given = guess.password.encode("utf-8", "surrogatepass")
            is_right = hmac.compare_digest(known.removeprefix(BUILT_IN).encode(), given)
            self._outcome(guess, user, is_right)
            return
        remembered = self._remembered.get(guess.name)
        if remembered is not None and remembered[0] == known:
            # A user has one password: what is not the remembered one is wrong.
            self._outcome(guess, user, hmac.compare_digest(remembered[1], guess.digest))
            return
        self._check(user, guess)

    def _check(self, user: User, guess: _Guess) -> None:
        known, password = user.password_hash, guess.password
        key = (user.name, known, guess.digest)
        joined = self._waiting.get(key)
        if joined is not None:
            if len(joined) < JOINED_MAX:
                joined.append(guess)
            else:
                self._too_many([guess])
            return
        self._waiting[key] = [guess]

        def check() -> bool:
            return self._verify_hash(known, password)

        def done(is_right: bool) -> None:
            self._checked(key, is_right)

        if self.check_later is None:
            done(check())
        else:
            self._checks.add(
                guess.source, check, done, lambda: self._too_many(self._waiting.pop(key))
            )

    def _too_many(self, guesses: list[_Guess]) -> None:
        for guess in guesses:
            log.warning("login of '%s' refused: too many logins at one time", shown(guess.name))
            guess.login.settle(_refused(guess.name))

    def _checked(self, key: tuple[str, str, bytes], is_right: bool) -> None:
        name, known, digest = key
        guesses = self._waiting.pop(key)
        user = self.users.get(name)
        # The account may have changed while Argon2 ran.
        is_right = is_right and user is not None and user.password_hash == known
        if is_right:
            if len(self._remembered) >= REMEMBERED_MAX:
                self._remembered.clear()
            self._remembered[name] = (known, digest)
        for guess in guesses:
            self._outcome(guess, user, is_right)

    def _outcome(self, guess: _Guess, user: User | None, is_right: bool) -> None:
        """A guess was looked at: count it, and settle its login."""
        if is_right and user is not None:
            self._failed.succeeded(guess.source, guess.name)
            guess.login.settle(_admitted(user, guess.is_loopback))
            return
        if self._call_later is not None:
            self._failed.failed(guess.source, guess.name, guess.stamp, self._now())
        self._settle(guess, _refused(guess.name))

    def _settle(self, guess: _Guess, refusal: AccessRefused) -> None:
        """Refuse, no sooner than any other refusal would come."""
        guess.password = ""
        wait_seconds = guess.began_at + REFUSAL_SECONDS - self._now()
        if self._call_later is None or wait_seconds <= 0:
            guess.login.settle(refusal)
        else:
            self._call_later(wait_seconds, lambda: guess.login.settle(refusal))


def _admitted(user: User, is_loopback: bool) -> Identity | AccessRefused:
    if user.name == "guest" and not is_loopback:
        return AccessRefused("non-loopback access denied")
    return Identity(user)


def _refused(name: str) -> AccessRefused:
    return AccessRefused(f"Access refused for user '{shown(name)}'")


def shown(name: str) -> str:
    """A name from a peer as it may stand in a log line or a reply: bounded, without control characters."""
    if name.isprintable() and len(name) <= 300:
        return name
    return "".join(one if one.isprintable() else "?" for one in name[:300])
