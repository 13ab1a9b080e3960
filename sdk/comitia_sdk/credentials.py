"""Where access tokens come from: an API key, a person's sign-in, or a token that somebody else got."""

import asyncio
import time
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from comitia_sdk.errors import Unauthenticated
from comitia_sdk.login.provider import claims_of, refresh
from comitia_sdk.login.stored import Logins, StoredLogin

#: A token is renewed this long before it ends, seconds.
MARGIN: Final = 60.0


@dataclass(frozen=True, slots=True)
class Token:
    """An access token of the mesh."""

    text: str = field(repr=False)
    #: Unix time, seconds.
    expires: float


class Exchange(Protocol):
    """The doors of a mesh where tokens are given."""

    async def for_api_key(self, api_key: str) -> Token:
        """Raises: ComitiaError."""
        ...

    async def for_id_token(self, tenant: str, id_token: str) -> Token:
        """Raises: ComitiaError."""
        ...


class Credentials(Protocol):
    """Gives access tokens."""

    @property
    def renewable(self) -> bool:
        """True when another token can be had in place of one that is refused."""
        ...

    async def token(self, exchange: Exchange, *, refused: str = "") -> Token:
        """Gives a token that works for another minute.

        Args:
            refused: not this one again; the mesh does not take it any more.
        Raises: ComitiaError.
        """
        ...


@dataclass(frozen=True, slots=True)
class NoCredentials:
    """Nothing was found."""

    url: str
    renewable = False

    async def token(self, exchange: Exchange, *, refused: str = "") -> Token:
        """See `Credentials.token`."""
        raise Unauthenticated(
            f"no API key for {self.url}; set COMITIA_API_KEY, sign in with `comitia login TENANT`, or start a mesh "
            "here with `comitia up --detach`",
            reason="API_KEY_MISSING",
        )


@dataclass(frozen=True, slots=True)
class FixedToken:
    """A token that is used as it is."""

    text: str = field(repr=False)
    renewable = False

    async def token(self, exchange: Exchange, *, refused: str = "") -> Token:
        """See `Credentials.token`."""
        return Token(self.text, float("inf"))


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key."""

    text: str = field(repr=False)
    renewable = True

    async def token(self, exchange: Exchange, *, refused: str = "") -> Token:
        """See `Credentials.token`."""
        return await exchange.for_api_key(self.text)


@dataclass(frozen=True, slots=True)
class Login:
    """A person who signed in. Renewed silently, as long as the provider does so."""

    logins: Logins
    url: str
    renewable = True

    async def token(self, exchange: Exchange, *, refused: str = "") -> Token:
        """See `Credentials.token`. Other processes of this user wait meanwhile: a refresh token is used once."""
        lock = self.logins.locked()
        await asyncio.to_thread(lock.__enter__)
        try:
            return await self._token(exchange, refused)
        finally:
            lock.__exit__(None, None, None)

    async def _token(self, exchange: Exchange, refused: str) -> Token:
        login = self.logins.get(self.url)
        if login is None:
            return await NoCredentials(self.url).token(exchange)
        if login.access_token and login.access_token != refused and time.time() < login.expires - MARGIN:
            return Token(login.access_token, login.expires)
        if time.time() < _expiry(login.id_token):
            try:
                return await self._exchange(exchange, login)
            except Unauthenticated:
                if not login.refresh_token:
                    raise
        return await self._exchange(exchange, await self._refreshed(login))

    async def _refreshed(self, login: StoredLogin) -> StoredLogin:
        ended = Unauthenticated(
            f"your sign-in to {login.tenant} has ended; run `comitia login {login.tenant}` again, or `comitia logout` "
            "to go on without it",
            reason="LOGIN_ENDED",
        )
        if not login.refresh_token:
            raise ended
        try:
            tokens = await asyncio.to_thread(
                refresh, login.token_endpoint, client_id=login.client_id, refresh_token=login.refresh_token
            )
        except Unauthenticated as refusal:
            raise ended from refusal
        login = replace(login, id_token=tokens.id_token, refresh_token=tokens.refresh_token)
        # At once: the old refresh token may be worth nothing now.
        self.logins.replace(self.url, login)
        return login

    async def _exchange(self, exchange: Exchange, login: StoredLogin) -> Token:
        token = await exchange.for_id_token(login.tenant, login.id_token)
        self.logins.replace(self.url, replace(login, access_token=token.text, expires=token.expires))
        return token


def credentials_of(url: str, *, api_key: str = "", access_token: str = "", login: Logins | None = None) -> Credentials:
    """Chooses: a token before a key, a key before a sign-in."""
    if access_token:
        return FixedToken(access_token)
    if api_key:
        return ApiKey(api_key)
    return NoCredentials(url) if login is None else Login(login, url)


def _expiry(id_token: str) -> float:
    """When an ID token ends; 0 when it does not say."""
    expires = claims_of(id_token).get("exp")
    return float(expires) if isinstance(expires, int | float) else 0.0
