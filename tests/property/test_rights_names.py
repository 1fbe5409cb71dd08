"""Rights and names against plain statements of what they mean."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import AccessRefused
from broker.session import dn
from broker.session.auth import Accounts, Identity, User

values = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), min_size=1, max_size=20)
kinds = st.sampled_from(sorted(dn.TYPES)) | st.just("1.2.3.4.5")
levels = st.lists(st.tuples(kinds, values), min_size=1, max_size=2)
subjects = st.lists(levels, min_size=1, max_size=5)


@given(subjects)
def test_the_comma_spelling_is_read_back_as_it_was(subject):
    name = dn.from_attributes(subject)
    assert dn.parse(dn.comma_form(name)) == name
    assert dn.comma_form(name).isprintable()


@given(subjects, subjects)
def test_two_subjects_are_one_user_only_if_they_are_the_same(one, other):
    """Whatever is in the values: no subject can be taken for another."""
    first, second = dn.from_attributes(one), dn.from_attributes(other)
    accounts = Accounts({}, {}, lambda *_: False)
    accounts.add(User(dn.comma_form(first), "", "store"))
    assert (accounts._by_certificate(second, True).__class__ is Identity) == (first == second)


@given(
    st.lists(
        st.tuples(kinds, st.from_regex(r"[a-z][a-z0-9 .:-]{0,9}[a-z0-9]", fullmatch=True)),
        min_size=1,
    )
)
def test_both_spellings_of_simple_names_are_equal(attributes):
    name = dn.from_attributes([[one] for one in attributes])
    assert dn.parse(dn.slash_form(name)) == dn.parse(dn.comma_form(name)) == name


@given(st.text(max_size=60))
def test_what_is_parsed_is_a_name_or_refused(text):
    try:
        name = dn.parse(text)
    except ValueError:
        return
    assert dn.parse(dn.comma_form(name)) == name


names = st.sampled_from(["", "q", "mine", "mine.too", "amq.default", "a+b", "ä"])
patterns = st.sampled_from(["", ".*", "^$", "^mine", "mine$", "^(q|mine)$", r"a\+b", "ä", "[a-m]"])


@given(patterns, patterns, patterns, st.sampled_from(["configure", "write", "read"]), names)
def test_a_right_is_its_pattern_found_in_the_name(configure, write, read, operation, name):
    user = User("u", "", "store", rights={"/": (configure, write, read)})
    pattern = {"configure": configure, "write": write, "read": read}[operation]
    # RabbitMQ: an empty pattern is "^$"; the default exchange is called amq.default.
    for kind in ("queue", "exchange"):
        shown = "amq.default" if kind == "exchange" and not name else name
        is_allowed = re.search(pattern or "^$", shown) is not None
        identity = Identity(user)
        if is_allowed:
            identity.check("/", operation, kind, name)
        else:
            with pytest.raises(AccessRefused) as caught:
                identity.check("/", operation, kind, name)
            assert caught.value.text == (
                f"{operation} access to {kind} '{shown}' in vhost '/' refused for user 'u'"
            )
        with pytest.raises(AccessRefused):
            identity.check("other", operation, kind, name)
