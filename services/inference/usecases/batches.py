"""Takes batches and cancels them. `poll_batches` carries them on."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from services.inference.domain.batch_job import BATCH_PREFIX, MOST_ITEMS, BatchJob
from services.inference.domain.deployment import DeploymentVersion
from services.inference.domain.errors import NoModelConfigured, PatientWorkUnsupported, ProviderRefused
from services.inference.domain.money_bound import bound_of
from services.inference.domain.prompt import Prompt
from services.inference.usecases.batch_ports import BatchProvider, BatchStore, BatchTokens, BatchView, OpenBatches
from services.inference.usecases.ports import Registry
from services.inference.usecases.route_calls import generators
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import Invalid
from services.meshkit.core.identity import Caller, TenantId
from services.meshkit.core.ids import IdSource, from_uuid
from services.meshkit.core.tenant import KnowsTenants, rules_of

_ITEM_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedItem:
    """One prompt of a batch as it is asked for."""

    item_id: str
    prompt: Prompt
    #: The same as it came, to be kept.
    request: bytes


class CreateBatch:
    """Takes a batch: chooses who is asked, checks that it can be, and keeps it with a grant to act on."""

    def __init__(
        self,
        *,
        registry: Registry,
        open_batches: OpenBatches,
        store: BatchStore,
        tokens: BatchTokens,
        tenants: KnowsTenants,
        clock: Clock,
        ids: IdSource,
    ) -> None:
        self._registry = registry
        self._open_batches = open_batches
        self._store = store
        self._tokens = tokens
        self._tenants = tenants
        self._clock = clock
        self._ids = ids

    async def __call__(self, caller: Caller, model: str, items: Sequence[AskedItem]) -> BatchView:
        """Gives the batch as it is kept. Nothing has left, and nothing is held yet.

        Raises: Invalid, ModelNotFound, NoModelConfigured, PatientWorkUnsupported, CallNotBounded, TooManyBatches,
            GRANT_NEEDS_KEY as the gateway says it.
        """
        check_item_ids([item.item_id for item in items])
        principal = caller.principal
        version, batcher = self._chosen(principal.tenant, model)
        for index, item in enumerate(items):
            _check(item.prompt, version, batcher, place=f"items[{index}]")
        # A grant is stored only for what will be kept: not for a repeat, nor for one batch too many.
        await self._store.check_addable(principal.tenant)
        batch_id = self._ids.uuid()
        grant = await self._tokens.issue(caller, from_uuid(BATCH_PREFIX, batch_id))
        job = BatchJob(
            id=batch_id,
            tenant=principal.tenant,
            deployment=version.name,
            version=version.version,
            deployment_id=version.deployment_id,
            payee=version.payee,
            grant_id=grant,
            project=principal.project or "",
            item_count=len(items),
            created=self._clock.now(),
        )
        return await self._store.add(job, [(item.item_id, item.request) for item in items])

    def _chosen(self, tenant: TenantId, model: str) -> tuple[DeploymentVersion, BatchProvider]:
        """Gives the first behind a name that does batches, where the content may go."""
        region = rules_of(self._tenants, tenant).residency_region
        found = generators(self._registry.resolve(tenant, model))
        allowed = [one for one in found if one.keeps_in(region)]
        if not allowed:
            raise NoModelConfigured(region=region)
        for one in allowed:
            batcher = self._open_batches.batcher(one)
            if batcher is not None:
                return one, batcher
        raise PatientWorkUnsupported(allowed[0].name, "model", "does no batches")


def check_item_ids(item_ids: Sequence[str]) -> None:
    """Raises: Invalid: there are none, too many, or one is twice or no id."""
    if not 1 <= len(item_ids) <= MOST_ITEMS:
        raise Invalid("items", f"must be 1 to {MOST_ITEMS}; these are {len(item_ids)}")
    seen: set[str] = set()
    for index, item_id in enumerate(item_ids):
        if _ITEM_ID.fullmatch(item_id) is None:
            raise Invalid(f"items[{index}].item_id", "must be 1 to 64 letters, digits, `_` and `-`")
        if item_id in seen:
            raise Invalid(f"items[{index}].item_id", f"{item_id!r} stands twice in the list")
        seen.add(item_id)


def _check(prompt: Prompt, version: DeploymentVersion, batcher: BatchProvider, *, place: str) -> None:
    """Looks whether money can be held for a prompt, and whether the provider can be told it."""
    bound_of(prompt, version)
    try:
        batcher.check(version, prompt)
    except ProviderRefused as cause:
        field = f"{place}.generate.{cause.metadata.get('field', 'messages')}"
        raise PatientWorkUnsupported(version.name, field, "cannot be told this") from cause
