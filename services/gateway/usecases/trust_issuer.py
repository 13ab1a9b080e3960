"""Takes the word of an issuer, or takes it no longer."""

from uuid import UUID

from services.gateway.domain.oidc_issuer import IssuerWish, OidcIssuer
from services.gateway.usecases.people_ports import BeginPeopleWork, TriesIssuers
from services.meshkit.core.audit import note
from services.meshkit.core.clock import Clock
from services.meshkit.core.identity import Caller
from services.meshkit.core.ids import IdSource
from services.meshkit.core.tenant import QuotaExceeded


class TrustIssuer:
    """Adds an issuer after its keys were fetched.

    Args:
        most: issuers that a tenant may have.
    """

    def __init__(
        self, *, begin: BeginPeopleWork, issuers: TriesIssuers, clock: Clock, ids: IdSource, most: int
    ) -> None:
        self._most = most
        self._begin = begin
        self._issuers = issuers
        self._clock = clock
        self._ids = ids

    async def __call__(self, caller: Caller, wish: IssuerWish) -> OidcIssuer:
        """Adds it.

        Raises: Invalid, RoleNotHeld, IssuerUnusable, AlreadyExists, QuotaExceeded; as `once`.
        """
        by = caller.principal
        wish = wish.checked(by=by)
        async with self._begin(by.tenant) as work:
            # A repeat is answered even when the issuer is away by now.
            await work.claim_once()
        issuer = wish.issuer_of(by, number=self._ids.uuid(), now=self._clock.now())
        # No transaction is open while somebody else's server is asked.
        await self._issuers.try_out(issuer)
        async with self._begin(by.tenant) as work:
            await work.claim_once()
            used = await work.issuers.count(by.tenant)
            if used >= self._most:
                raise QuotaExceeded("max_oidc_issuers", limit=self._most, used=used)
            await work.issuers.add(issuer)
            note(target=issuer.name, details={"issuer": issuer.issuer})
            await work.keep_once(issuer)
            await work.commit()
        return issuer


class DistrustIssuer:
    """Deletes an issuer; nobody signs in by it any more."""

    def __init__(self, *, begin: BeginPeopleWork) -> None:
        self._begin = begin

    async def __call__(self, caller: Caller, issuer_id: UUID) -> None:
        """Raises: NotFound; as `once`."""
        by = caller.principal
        async with self._begin(by.tenant) as work:
            await work.claim_once()
            issuer = await work.issuers.remove(by.tenant, issuer_id)
            note(target=issuer.name, details={"issuer": issuer.issuer})
            await work.keep_once(None)
            await work.commit()
