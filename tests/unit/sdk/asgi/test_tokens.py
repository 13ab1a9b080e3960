"""No token of an attacker opens an application, and whatever is wrong with one, callers read the same."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comitia_sdk.asgi import ComitiaAuth
from comitia_sdk.asgi.signed_token import tenant_id
from services.meshkit.core.ids import from_uuid
from services.meshkit.grpc.signed_token import SigningKey
from tests.support.asgi import NOON, TENANT, FakeDoors, bearer, called, http
from tests.support.token_attacks import LINES, forged, senseless, signed
from tests.unit.sdk.asgi.conftest import Host

KEY = SigningKey.generate("access-1")
CLAIMS = {
    "iss": "comitia",
    "aud": "comitia",
    "sub": "key_1",
    "tenant": TENANT,
    "roles": ["admin"],
    "iat": int(NOON) + 990,
    "exp": int(NOON) + 4600,
    "jti": "test",
}
ATTACKS = {**forged(KEY, CLAIMS), **senseless(KEY, CLAIMS, now=NOON + 1000)}
#: Ours, but for the place where somebody says where else to look for the key.
POINTING = {name: {"alg": "EdDSA", "kid": "access-1", name: "https://evil.example/"} for name in ("jku", "x5u", "x5c")}


@pytest.fixture
def doors() -> FakeDoors:
    return FakeDoors(signing=KEY)


@pytest.mark.parametrize("attack", ATTACKS)
async def test_no_attack_lets_anybody_in(app: ComitiaAuth, host: Host, doors: FakeDoors, attack: str) -> None:
    answered = await called(app, http(headers=bearer(ATTACKS[attack])))

    assert (answered.status, answered.reason) == (401, "TOKEN_INVALID")
    assert answered.headers["www-authenticate"] == "Bearer"
    assert not host.scopes
    assert (doors.confirmations, doors.exchanges) == (0, 0)


async def test_all_attacks_are_told_the_same(app: ComitiaAuth) -> None:
    told = {str((await called(app, http(headers=bearer(token)))).sent) for token in ATTACKS.values()}
    assert len(told) == 1


@pytest.mark.parametrize("name", POINTING)
async def test_a_header_that_points_at_a_key_is_refused_even_if_we_signed_it(app: ComitiaAuth, name: str) -> None:
    assert (await called(app, http(headers=bearer(signed(KEY, POINTING[name], CLAIMS))))).status == 401


@pytest.mark.parametrize("line", LINES)
async def test_a_header_line_that_is_not_exactly_one_token_is_refused(
    app: ComitiaAuth, doors: FakeDoors, line: str
) -> None:
    answered = await called(app, http(headers=[("authorization", LINES[line](doors.token()))]))
    assert (answered.status, answered.reason) == (401, "TOKEN_INVALID")


@given(st.uuids())
def test_a_tenant_is_named_as_the_mesh_names_it(value: UUID) -> None:
    assert tenant_id(value) == from_uuid("tenant", value)
