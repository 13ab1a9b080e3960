"""Who may become a user, and whose word is taken: the rules, without a server."""

from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.domain.errors import RoleNotHeld
from services.gateway.domain.oidc_issuer import IssuerWish
from services.gateway.domain.user import MAX_EMAIL, User, checked_roles, to_domain, to_email
from services.meshkit.core.errors import Invalid
from services.meshkit.core.identity import Principal, Role, TenantId
from services.meshkit.core.permissions import permissions_of
from services.meshkit.testing.fake_clock import NOON

TENANT = TenantId(UUID(int=1))
ADMIN = Principal(tenant=TENANT, subject="key_x", roles=frozenset({Role.ADMIN}))


def a_wish(**changes: Any) -> IssuerWish:
    wish = IssuerWish(issuer="https://accounts.example.com", client_id="comitia", trusted_domains=(), default_roles=())
    return replace(wish, **changes)


@pytest.mark.parametrize("text", ["ann@example.com", "Ann.B+c@Example.CO.UK", "a@b", "o'neil@example.com"])
def test_mail_addresses_are_kept_in_lower_case(text: str) -> None:
    assert to_email(text) == text.lower()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ann",
        "@example.com",
        "ann@",
        "ann@@example.com",
        "ann@example.com ",
        " ann@example.com",
        "ann@example..com",
        "ann@-example.com",
        "ann@example.com.",
        "ann b@example.com",
        "ann@example.com\n",
        "ann\x00@example.com",
        "änn@example.com",
        "ann@exämple.com",
        '"ann"@example.com',
        "<ann@example.com>",
        "a" * 65 + "@example.com",
        "a@" + ".".join(["b" * 60] * 5),
    ],
)
def test_what_is_no_mail_address_is_refused_with_its_field(text: str) -> None:
    with pytest.raises(Invalid) as refused:
        to_email(text)
    assert refused.value.field == "email"


@given(st.text(max_size=300))
def test_any_text_is_a_plain_address_or_refused(text: str) -> None:
    try:
        email = to_email(text)
    except Invalid:
        return
    assert email.isascii()
    assert email.isprintable()
    assert email.count("@") == 1
    assert len(email) <= MAX_EMAIL
    assert to_email(email) == email


@pytest.mark.parametrize("text", ["", "com", "example.com.", "*.example.com", "@example.com", "exämple.com", "a b.com"])
def test_what_is_no_domain_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        to_domain(text, field="trusted_domains[0]")


def test_only_addresses_of_the_very_domain_are_trusted() -> None:
    from tests.support.issuers import an_issuer

    issuer = an_issuer()
    assert issuer.trusts("ann@example.com")
    for email in (
        "ann@sub.example.com",
        "ann@example.com.evil.example",
        "ann@notexample.com",
        "example.com@evil.example",
    ):
        assert not issuer.trusts(email)


@given(
    st.sets(st.sampled_from(Role), min_size=1),
    st.lists(st.sampled_from(Role), min_size=1),
    st.none() | st.sets(st.sampled_from(sorted(permissions_of(Role)))),
)
def test_nobody_gives_a_user_more_than_they_may(held: set[Role], asked: list[Role], scopes: set[str] | None) -> None:
    by = Principal(
        tenant=TENANT,
        subject="key_x",
        roles=frozenset(held),
        scopes=None if scopes is None else frozenset(scopes),
    )
    may = permissions_of(held) if scopes is None else permissions_of(held) & scopes
    try:
        assert checked_roles(asked, by=by) == set(asked)
    except RoleNotHeld:
        assert not permissions_of(asked) <= may
    else:
        assert permissions_of(asked) <= may


def test_an_issuer_needs_somebody_who_may_all_that_its_people_may() -> None:
    assert a_wish().checked(by=ADMIN) == a_wish()
    for by in (
        replace(ADMIN, roles=frozenset({Role.AUDITOR})),
        replace(ADMIN, scopes=frozenset({"oidc_issuers.write"})),
    ):
        with pytest.raises(RoleNotHeld):
            a_wish().checked(by=by)


@pytest.mark.parametrize(
    "issuer",
    [
        "",
        "accounts.example.com",
        "http://accounts.example.com",
        "http://10.0.0.1",
        "http://127.0.0.1.evil.example",
        "http://localhost.evil.example",
        "https://user:password@accounts.example.com",
        "https://accounts.example.com?x=1",
        "https://accounts.example.com#x",
        "https://accounts.example.com\\@evil.example",
        "https://accounts.example.com:99999",
        "https://accounts.example.com:0",
        "https://[::1",
        "https://",
        "https://accounts example.com",
        "https://exämple.com",
        "https://accounts.example.com\n",
        "https://" + "a" * 250 + ".example",
        "file:///etc/passwd",
        "javascript:alert(1)",
    ],
)
def test_what_cannot_be_an_issuer_is_refused_with_its_field(issuer: str) -> None:
    with pytest.raises(Invalid) as refused:
        a_wish(issuer=issuer).checked(by=ADMIN)
    assert refused.value.field == "issuer"


@pytest.mark.parametrize("issuer", ["http://127.0.0.1:8080", "http://[::1]:1/a", "http://localhost", "https://a.b/c/"])
def test_loopback_needs_no_tls(issuer: str) -> None:
    assert a_wish(issuer=issuer).checked(by=ADMIN).issuer == issuer


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"client_id": ""}, "client_id"),
        ({"client_id": "a\x00"}, "client_id"),
        ({"client_id": "a" * 256}, "client_id"),
        ({"trusted_domains": tuple(f"{n}.example.com" for n in range(21))}, "trusted_domains"),
        ({"trusted_domains": ("example.com", "com")}, "trusted_domains[1]"),
        ({"trusted_domains": ("example.com",)}, "default_roles"),
        ({"default_roles": (Role.AUDITOR,)}, "default_roles"),
        ({"trusted_domains": ("example.com",), "default_roles": (Role.OPERATOR,)}, "default_roles"),
    ],
)
def test_a_wrong_field_of_an_issuer_is_named(changes: dict[str, Any], field: str) -> None:
    operator = replace(ADMIN, roles=frozenset({Role.ADMIN, Role.OPERATOR}))
    with pytest.raises(Invalid) as refused:
        a_wish(**changes).checked(by=operator)
    assert refused.value.field == field


def test_a_removed_user_stays_removed() -> None:
    roles = frozenset({Role.AUDITOR})
    user = User(id=UUID(int=2), tenant=TENANT, email="a@b", roles=roles, roles_time=NOON, create_time=NOON)
    assert user.works
    assert user.principal().email == "a@b"
    gone = user.removed(NOON)
    assert not gone.works
    assert gone.removed(NOON.replace(year=2100)) == gone
