"""ID tokens that are good, and every way of being none."""

import hmac
import json
import warnings
from datetime import timedelta
from typing import Any, Final

import pytest
from joserfc.jwk import ECKey, Key, RSAKey

from services.gateway.clients.compact_jws import read_key_set
from services.gateway.clients.id_tokens import IdTokenVerifier
from services.gateway.clients.issuer_keys import IssuerKeys
from services.gateway.domain.id_token import VerifiedLogin
from services.gateway.domain.user_errors import LoginRefused
from services.meshkit.testing.fake_clock import NOON, FakeClock
from tests.support.issuers import (
    CLIENT_ID,
    EC,
    ED,
    ISSUER,
    OTHER_RSA,
    RSA,
    Web,
    a_web,
    an_issuer,
    base64url,
    claims,
    public,
    signed,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    _WEAK: Final = RSAKey.generate_key(1024, {"kid": "weak"})
_P384: Final = ECKey.generate_key("P-384", {"kid": "p384"})
_NOW: Final = int(NOON.timestamp())
_PEM: Final = RSA.as_pem(private=False)


def verifier(web: Web, clock: FakeClock | None = None) -> IdTokenVerifier:
    clock = clock or FakeClock()
    keys = IssuerKeys(web, clock=clock, may_be_local="nobody", fresh_seconds=600, outage_seconds=86_400)
    return IdTokenVerifier(keys, clock=clock)


async def verified(token: str, *keys: Key, web: Web | None = None) -> VerifiedLogin:
    web = web or a_web(*(keys or (RSA, OTHER_RSA, EC, ED, _P384)))
    return await verifier(web).verified(token, issuers=[an_issuer()])


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [(RSA, name) for name in ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")]
    + [(EC, "ES256"), (_P384, "ES384"), (ED, "EdDSA"), (ED, "Ed25519")],
)
async def test_every_asymmetric_algorithm_is_taken(key: Key, algorithm: str) -> None:
    login = await verified(signed(claims(), key=key, algorithm=algorithm))
    assert (login.email, login.subject, login.issuer) == ("ann@example.com", "ann", an_issuer())


@pytest.mark.parametrize(
    "good",
    [
        claims(aud=[CLIENT_ID]),
        claims(aud=[CLIENT_ID, "another"], azp=CLIENT_ID),
        claims(azp=CLIENT_ID),
        claims(iat=_NOW + 60, nbf=_NOW + 60),
        claims(iat=_NOW - 400, exp=_NOW - 59),
        claims(iat=_NOW - 0.5, exp=_NOW + 1e3),
        claims(groups=["a", {"deep": [1]}]),
    ],
)
async def test_what_the_standard_allows_is_taken(good: dict[str, Any]) -> None:
    assert (await verified(signed(good))).subject == "ann"


@pytest.mark.parametrize("header", [{"alg": "RS256"}, {"alg": "RS256", "typ": "jwt", "x5t": "abc", "kid": "rsa"}])
async def test_a_key_need_not_be_named_where_there_is_one(header: dict[str, Any]) -> None:
    assert (await verified(signed(claims(), header=header), RSA)).subject == "ann"


def unsigned(header: dict[str, Any], signature: str = "") -> str:
    return f"{base64url(json.dumps(header).encode())}.{base64url(json.dumps(claims()).encode())}.{signature}"


def with_secret(secret: bytes, **header: Any) -> str:
    text = unsigned({"alg": "HS256", "kid": "rsa", "typ": "JWT", **header}).rpartition(".")[0]
    return f"{text}.{base64url(hmac.digest(secret, text.encode(), 'sha256'))}"


def changed(token: str, part: int, text: str) -> str:
    parts = token.split(".")
    parts[part] = text
    return ".".join(parts)


_GOOD: Final = signed(claims())
_HEADER: Final = {"alg": "RS256", "kid": "rsa", "typ": "JWT"}
#: What an attacker may send, by what it tries.
ATTACKS: Final[dict[str, str]] = {
    "nothing": "",
    "no token": "hello",
    "two parts": _GOOD.rpartition(".")[0],
    "four parts": f"{_GOOD}.{_GOOD}",
    "five parts, encrypted": ".".join(["e30"] * 5),
    "not ascii": f"{_GOOD}é",
    "a line break": f"{_GOOD}\n",
    "padding": f"{_GOOD}=",
    "longer than 8 KB": signed(claims(padding="x" * 8192)),
    "alg none": unsigned({"alg": "none"}),
    "alg none with the signature": unsigned({"alg": "none", "kid": "rsa"}, _GOOD.rpartition(".")[2]),
    "alg NoNe": unsigned({"alg": "NoNe", "kid": "rsa"}, "AA"),
    "alg missing": unsigned({"kid": "rsa"}, _GOOD.rpartition(".")[2]),
    "alg in another case": unsigned({"alg": "rs256", "kid": "rsa"}, _GOOD.rpartition(".")[2]),
    "alg as a list": unsigned({"alg": ["RS256"], "kid": "rsa"}, _GOOD.rpartition(".")[2]),
    "public key as a secret, PEM": with_secret(_PEM),
    "public key as a secret, DER": with_secret(RSA.as_der(private=False)),
    "public key as a secret, JWK": with_secret(json.dumps(RSA.as_dict(private=False)).encode()),
    "empty secret": with_secret(b"\x00"),
    "ES256K": unsigned({"alg": "ES256K", "kid": "ec"}, "AA"),
    "RS256 named ES256": changed(_GOOD, 0, base64url(json.dumps({**_HEADER, "alg": "ES256"}).encode())),
    "RS256 named PS256": changed(_GOOD, 0, base64url(json.dumps({**_HEADER, "alg": "PS256"}).encode())),
    "signed by another key of the issuer": signed(claims(), key=OTHER_RSA, header=_HEADER),
    "signed by nobody": signed(claims(), key=RSAKey.generate_key(2048, {"kid": "rsa"})),
    "kid that nobody has": signed(claims(), header={**_HEADER, "kid": "../../etc/passwd"}),
    "kid as SQL": signed(claims(), header={**_HEADER, "kid": "' OR 1=1 --"}),
    "kid of another key": signed(claims(), header={**_HEADER, "kid": "other"}),
    "kid as a number": signed(claims(), header={**_HEADER, "kid": 1}),
    "kid missing where there are several": signed(claims(), header={"alg": "RS256"}),
    "its own key": signed(claims(), key=OTHER_RSA, header={**_HEADER, "jwk": OTHER_RSA.as_dict(private=False)}),
    "where its key lies": signed(claims(), header={**_HEADER, "jku": "https://evil.example/jwks"}),
    "where its certificate lies": signed(claims(), header={**_HEADER, "x5u": "https://evil.example/cert"}),
    "its own certificate": signed(claims(), header={**_HEADER, "x5c": ["MIIB"]}),
    "critical headers": signed(claims(), header={**_HEADER, "crit": ["exp"]}),
    "unencoded payload": signed(claims(), header={**_HEADER, "b64": False}),
    "an access token": signed(claims(), header={**_HEADER, "typ": "at+jwt"}),
    "a log-out token by type": signed(claims(), header={**_HEADER, "typ": "logout+jwt"}),
    "a log-out token by claim": signed(claims(events={"http://schemas.openid.net/event/backchannel-logout": {}})),
    "no signature": changed(_GOOD, 2, ""),
    "a cut signature": changed(_GOOD, 2, _GOOD.rpartition(".")[2][:-4]),
    "a signature of zeros": changed(_GOOD, 2, base64url(bytes(256))),
    "other claims under the signature": changed(_GOOD, 1, base64url(json.dumps(claims(sub="eve")).encode())),
    "claims that are a list": signed(json.dumps([claims()])),
    "claims that are no JSON": signed("{"),
    "claims twice": signed('{"iss":"https://evil.example",' + json.dumps(claims())[1:]),
    "claims twice within": signed(json.dumps(claims())[:-1] + ',"a":{"b":1,"b":2}}'),
    "claims nested without end": signed("[" * 3000),
    "a time that is NaN": signed(json.dumps(claims()).replace(str(_NOW + 300), "NaN")),
    "a time that is Infinity": signed(json.dumps(claims()).replace(str(_NOW + 300), "Infinity")),
    "a time beyond numbers": signed(json.dumps(claims()).replace(str(_NOW + 300), "1e999")),
    "a time of many digits": signed(json.dumps(claims()).replace(str(_NOW + 300), "9" * 400)),
    "a time as text": signed(claims(exp=str(_NOW + 300))),
    "a time that is true": signed(claims(exp=True)),
    "another issuer": signed(claims(iss="https://evil.example")),
    "the issuer with a slash": signed(claims(iss=f"{ISSUER}/")),
    "the issuer in capitals": signed(claims(iss=ISSUER.upper())),
    "the issuer in a list": signed(claims(iss=[ISSUER])),
    "no issuer": signed(claims(iss=None)),
    "another audience": signed(claims(aud="another")),
    "no audience": signed(claims(aud=None)),
    "an empty audience": signed(claims(aud=[])),
    "an audience that is an object": signed(claims(aud={CLIENT_ID: True})),
    "several audiences, no azp": signed(claims(aud=[CLIENT_ID, "another"])),
    "azp of another": signed(claims(aud=[CLIENT_ID, "another"], azp="another")),
    "azp of another, one audience": signed(claims(azp="another")),
    "expired": signed(claims(iat=_NOW - 400, exp=_NOW - 60)),
    "no expiry": signed(claims(exp=None)),
    "no issue time": signed(claims(iat=None)),
    "issued in the future": signed(claims(iat=_NOW + 61, exp=_NOW + 300)),
    "not yet": signed(claims(nbf=_NOW + 61)),
    "issued long ago": signed(claims(iat=_NOW - 24 * 3600 - 61)),
    "expired before it was issued": signed(claims(iat=_NOW, exp=_NOW - 1)),
    "no subject": signed(claims(sub=None)),
    "an empty subject": signed(claims(sub="")),
    "a subject that is a number": signed(claims(sub=7)),
    "a long subject": signed(claims(sub="x" * 256)),
    "a subject with NUL": signed(claims(sub="a\x00b")),
    "no mail address": signed(claims(email=None)),
    "a mail address that is not verified": signed(claims(email_verified=False)),
    "a mail address of which nothing is said": signed(claims(email_verified=None)),
    "a mail address that is verified in words": signed(claims(email_verified="true")),
    "two mail addresses": signed(claims(email="ann@example.com,eve@example.com")),
    "a mail address with NUL": signed(claims(email="ann@example.com\x00.evil.example")),
    "a mail address in other letters": signed(claims(email="\u0430nn@example.com")),
    "a mail address with a Kelvin sign": signed(claims(email="mar\u212a@example.com")),
}


@pytest.mark.parametrize("attack", ATTACKS)
async def test_every_fault_gets_the_same_answer(attack: str) -> None:
    with pytest.raises(LoginRefused) as refused:
        await verified(ATTACKS[attack])
    assert (refused.value.reason, refused.value.metadata) == ("LOGIN_REFUSED", {})
    assert refused.value.message == LoginRefused("").message


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        (public(_WEAK), "too short"),
        (public(RSA, use="enc"), "for encryption"),
        (public(RSA, key_ops=["sign"]), "not for verification"),
        (public(RSA, key_ops="verify"), "not a list"),
        (public(RSA, alg="PS256"), "for another algorithm"),
        (public(RSA, alg="HS256"), "for a symmetric algorithm"),
        (public(RSA, kty="oct"), "a secret"),
        (public(RSA, n="AQAB"), "another key"),
        (public(RSA, kid=7), "a number for a name"),
        (public(RSA, e=RSA.as_dict(private=False)["n"]), "an exponent that takes long"),
        (public(RSA, e="AQAAAAE"), "an exponent of 33 bits"),
        (public(RSA, e="AQ"), "an exponent that hides nothing"),
        (public(RSA, e=65537), "an exponent that is no text"),
        ({"keys": [{"kty": "oct", "k": base64url(_PEM), "kid": "rsa"}]}, "a secret that is a public key"),
        ({"keys": ["rsa", None, 7]}, "no keys"),
        ({"keys": {}}, "no list"),
        ({}, "nothing"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_key_that_is_not_meant_for_it_verifies_nothing(keys: dict[str, Any], why: str) -> None:
    web = a_web(OTHER_RSA)
    web.documents[f"{ISSUER}/jwks"] = (
        {"keys": [*keys.get("keys", []), *public(OTHER_RSA)["keys"]]}
        if (isinstance(keys.get("keys", []), list))
        else keys
    )
    token = signed(claims(), key=_WEAK if why == "too short" else RSA)
    with pytest.raises(Exception) as refused:
        await verified(token, web=web)
    assert refused.value.__class__.__name__ in ("LoginRefused", "IssuerUnavailable")


async def test_a_key_set_with_private_keys_is_taken_for_its_public_half() -> None:
    web = a_web()
    web.documents[f"{ISSUER}/jwks"] = {"keys": [RSA.as_dict(private=True)]}
    assert (await verified(signed(claims()), web=web)).subject == "ann"


async def test_a_token_is_held_against_few_keys_of_one_name() -> None:
    others = [RSAKey.generate_key(2048, {"kid": "rsa"}) for _ in range(4)]
    assert len(read_key_set(public(*others, RSA, EC, ED))) == 6
    assert (await verified(signed(claims()), *others[:3], RSA)).subject == "ann"
    with pytest.raises(LoginRefused):
        await verified(signed(claims()), *others, RSA)


async def test_a_token_for_a_tenant_without_issuers_is_refused_like_any_other() -> None:
    web = a_web(RSA)
    with pytest.raises(LoginRefused):
        await verifier(web).verified(_GOOD, issuers=[])
    assert web.asked == []


async def test_the_clock_decides() -> None:
    clock = FakeClock()
    check = verifier(a_web(RSA), clock)
    await check.verified(_GOOD, issuers=[an_issuer()])
    clock.advance(seconds=timedelta(minutes=6).total_seconds())
    with pytest.raises(LoginRefused):
        await check.verified(_GOOD, issuers=[an_issuer()])
