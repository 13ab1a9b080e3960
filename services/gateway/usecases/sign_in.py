"""Lets a person in by the word of an issuer."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import timedelta
from typing import Final

from services.gateway.domain.id_token import VerifiedLogin
from services.gateway.domain.oidc_issuer import OidcIssuer
from services.gateway.domain.user import User
from services.gateway.domain.user_errors import LoginRefused
from services.gateway.usecases.exchange_api_key import AccessToken
from services.gateway.usecases.people_ports import BeginPeopleWork, IdTokens, LoginDirectory, PeopleWork
from services.gateway.usecases.ports import TokenSigner
from services.meshkit.core.audit import mesh_acts
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import AlreadyExists, NotFound
from services.meshkit.core.ids import IdSource
from services.meshkit.core.tenant import TenantState
from services.meshkit.telemetry.logs import logger

#: Life of a token for a person.
TOKEN_LIFE: Final = timedelta(minutes=15)

log = logger(__name__)


class SignIn:
    """Exchanges an ID token for an access token.

    Whoever was invited may come in; so may people of a domain that the issuer is trusted with, who become users by it.
    A removed user may not, until somebody invites that address again. Who a person is at the issuer is remembered at
    the first sign-in: when the address is given to somebody else there, they do not get in. Nobody comes in to a tenant
    that is not active, and nobody gets a role that the issuer may not give.

    Args:
        most_users: users that a tenant may have who are not removed; nobody joins it beyond that.
    """

    def __init__(
        self,
        *,
        directory: LoginDirectory,
        id_tokens: IdTokens,
        begin: BeginPeopleWork,
        signer: TokenSigner,
        clock: Clock,
        ids: IdSource,
        most_users: int,
    ) -> None:
        self._directory = directory
        self._id_tokens = id_tokens
        self._begin = begin
        self._signer = signer
        self._clock = clock
        self._ids = ids
        self._most_users = most_users

    async def options(self, tenant: str) -> list[OidcIssuer]:
        """Gives the ways to sign in to a tenant."""
        return await self._directory.issuers_of(tenant)

    async def __call__(self, tenant: str, id_token: str) -> AccessToken:
        """Raises: LoginRefused, IssuerUnavailable."""
        try:
            login = await self._id_tokens.verified(id_token, issuers=await self._directory.issuers_of(tenant))
            return await self._let_in(login)
        except LoginRefused as refusal:
            log.info("sign-in refused", cause=refusal.cause)
            raise

    async def _let_in(self, login: VerifiedLogin) -> AccessToken:
        try:
            return await self._known_or_new(login)
        except AlreadyExists:
            # Two first sign-ins of one person at once: the other one made the user.
            return await self._known_or_new(login)

    async def _known_or_new(self, login: VerifiedLogin) -> AccessToken:
        tenant = login.issuer.tenant
        async with self._begin(tenant) as work:
            issuer = await _open_door(work, login)
            user = await work.users.with_email(tenant, login.email)
            joins = user is None and issuer.trusts(login.email)
            if joins:
                user = await self._join(work, login)
            if user is None or not user.works:
                raise LoginRefused("nobody with this mail address is invited")
            roles = issuer.roles_of(user)
            if not roles:
                raise LoginRefused("whoever added the issuer could give away none of the user's roles")
            # While the row is locked: whoever changes or removes the user waits, and then refuses this token.
            token = self._token(replace(user, roles=roles))
            now = self._clock.now()
            if await work.users.bind(user, login, now) != login.subject:
                raise LoginRefused("the issuer gave the mail address to somebody else")
            user = replace(user, last_login_time=now)
            await work.users.replace(user)
            with _on_record(user, login) if joins else nullcontext():
                await work.commit()
        return token

    def _token(self, user: User) -> AccessToken:
        ends = self._clock.now() + TOKEN_LIFE
        signed = self._signer.sign(user.principal(), life=TOKEN_LIFE, token_id=self._ids.uuid().hex)
        return AccessToken(token=signed, expire_time=ends)

    async def _join(self, work: PeopleWork, login: VerifiedLogin) -> User:
        issuer, now = login.issuer, self._clock.now()
        user = User(
            id=self._ids.uuid(),
            tenant=issuer.tenant,
            email=login.email,
            roles=issuer.default_roles,
            roles_time=now,
            create_time=now,
        )
        if await work.users.count(issuer.tenant) >= self._most_users:
            raise LoginRefused("the tenant has as many users as it may have")
        await work.users.add(user)
        return user


async def _open_door(work: PeopleWork, login: VerifiedLogin) -> OidcIssuer:
    """Looks again at the issuer and at its tenant: verifying took a while. Raises: LoginRefused."""
    issuer = login.issuer
    if (await work.tenants.get(issuer.tenant)).state is not TenantState.ACTIVE:
        raise LoginRefused("the tenant is not active")
    try:
        return await work.issuers.get(issuer.tenant, issuer.id)
    except NotFound as error:
        raise LoginRefused("the issuer was deleted meanwhile") from error


def _on_record(user: User, login: VerifiedLogin) -> AbstractContextManager[object]:
    """Has the commit tell the audit trail that somebody became a user whom nobody invited."""
    return mesh_acts(
        "gateway", user.tenant, action="users.join", target=user.subject, details={"issuer": login.issuer.name}
    )
