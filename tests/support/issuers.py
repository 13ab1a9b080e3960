"""Issuers for tests that need no provider: documents, keys, and tokens made by hand, well or badly."""

import asyncio
import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from joserfc.jwk import ECKey, Key, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

from services.gateway.clients.outward_json import OutOfReach
from services.gateway.domain.oidc_issuer import OidcIssuer
from services.meshkit.core.identity import Role, TenantId
from services.meshkit.testing.fake_clock import NOON

ISSUER: Final = "https://accounts.example.com"
CLIENT_ID: Final = "comitia"
TENANT: Final = TenantId(UUID(int=1))
#: Made once: it takes a moment.
RSA: Final = RSAKey.generate_key(2048, {"kid": "rsa"})
OTHER_RSA: Final = RSAKey.generate_key(2048, {"kid": "other"})
EC: Final = ECKey.generate_key("P-256", {"kid": "ec"})
ED: Final = OKPKey.generate_key("Ed25519", {"kid": "ed"})


def an_issuer(**changes: Any) -> OidcIssuer:
    values: dict[str, Any] = {
        "id": UUID(int=3),
        "tenant": TENANT,
        "issuer": ISSUER,
        "client_id": CLIENT_ID,
        "trusted_domains": frozenset({"example.com"}),
        "default_roles": frozenset({Role.TENANT_USER}),
        "most_roles": frozenset(Role),
        "create_time": NOON,
    }
    return OidcIssuer(**{**values, **changes})


def claims(now: datetime = NOON, **changes: Any) -> dict[str, Any]:
    """Gives good claims; None leaves one out."""
    moment = int(now.astimezone(UTC).timestamp())
    good: dict[str, Any] = {
        "iss": ISSUER,
        "sub": "ann",
        "aud": CLIENT_ID,
        "iat": moment,
        "exp": moment + 300,
        "email": "Ann@Example.com",
        "email_verified": True,
    }
    return {name: value for name, value in {**good, **changes}.items() if value is not None}


def base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed(
    said: Mapping[str, Any] | str, *, key: Key = RSA, algorithm: str = "RS256", header: Mapping[str, Any] | None = None
) -> str:
    """Signs claims, or any text in their place."""
    head = {"alg": algorithm, "kid": key.kid, "typ": "JWT"} if header is None else header
    body = said if isinstance(said, str) else json.dumps(said)
    text = f"{base64url(json.dumps(head).encode())}.{base64url(body.encode())}"
    return f"{text}.{base64url(JWSRegistry.algorithms[algorithm].sign(text.encode(), key))}"


def public(*keys: Key, **changes: Any) -> dict[str, Any]:
    """Gives a key set."""
    return {"keys": [{**key.as_dict(private=False), **changes} for key in keys]}


@dataclass(slots=True)
class Web:
    """What is to be found outside: documents by address. Counts, and can be down or slow."""

    documents: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    asked: list[str] = field(default_factory=list[str])
    #: Addresses that were allowed to be local.
    local: list[str] = field(default_factory=list[str])
    down: bool = False
    #: Waited for before an answer.
    gate: asyncio.Event | None = None

    async def get(self, url: str, *, most_bytes: int, reach_local: bool) -> dict[str, Any]:
        self.asked.append(url)
        if reach_local:
            self.local.append(url)
        if self.gate is not None:
            await self.gate.wait()
        if self.down or url not in self.documents:
            raise OutOfReach("it does not answer")
        return self.documents[url]

    @property
    def key_set_fetches(self) -> int:
        return sum(url.endswith("/jwks") for url in self.asked)


def a_web(*keys: Key, issuer: str = ISSUER) -> Web:
    """Gives a web with one issuer."""
    return Web(
        {
            f"{issuer}/.well-known/openid-configuration": {"issuer": issuer, "jwks_uri": f"{issuer}/jwks"},
            f"{issuer}/jwks": public(*keys),
        }
    )
