"""Asks law and money about the items of a batch, and gives back what was held for those that never left.

Money is held under names that follow from the batch, so whoever goes on after a crash holds the same.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final, TypeVar

from services.inference.domain.answer import Answer, StopReason
from services.inference.domain.batch_job import BatchItem, BatchJob, ItemState
from services.inference.domain.call import Unjudged
from services.inference.domain.deployment import DeploymentVersion
from services.inference.domain.law import raise_if_blocked
from services.inference.domain.prompt import Prompt
from services.inference.usecases.asked import Asked
from services.inference.usecases.attempt import judged_before
from services.inference.usecases.batch_ports import BatchCall, BatchHolds, BatchPrices, BatchStore
from services.inference.usecases.collect_batch import context_of
from services.inference.usecases.ports import ProviderCall
from services.meshkit.calls.ports import Clearance, DispatchedHold, LawGate
from services.meshkit.content import Usage
from services.meshkit.content.law import Stage, Verdict
from services.meshkit.core.errors import ErrorKind, MeshError, RequestIdReused
from services.meshkit.core.identity import Principal

Given = TypeVar("Given")
Made = TypeVar("Made")

#: Life of a hold for what has not left: longer than law and money take for all items. A batch that nobody carries on,
#: or whose caller may work no longer and so can give nothing back, keeps money from others no longer.
_RESERVED: Final = timedelta(minutes=10)
#: Life of a hold for what has left, from when it was made: the longest that cost takes. Later usage corrects `assumed`.
_DISPATCHED: Final = timedelta(hours=24)
#: Items that law and money are asked about at once.
_AT_ONCE: Final = 100
#: What the name of a model ends with in price lists that know its price in batches.
BATCH_PRICE: Final = ":batch"
#: What is wrong with an item itself, whenever it is tried.
OF_THE_ITEM: Final = frozenset({ErrorKind.PRECONDITION, ErrorKind.INVALID, ErrorKind.NOT_FOUND, ErrorKind.DENIED})


class NamesTaken(Exception):  # not for callers: the batch is held for anew
    """Money is held under the names of this try for something else, or was: the next try has names of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleared:
    """An item that law has passed and money is held for."""

    item: BatchItem
    prompt: Prompt
    verdict: Verdict


class HoldBatch:
    """Clears the items of a batch to leave.

    Args:
        read: reads what was asked back from its bytes.
    """

    def __init__(
        self,
        *,
        store: BatchStore,
        law: LawGate,
        holds: BatchHolds,
        prices: BatchPrices,
        read: Callable[[bytes], Prompt],
    ) -> None:
        self._store = store
        self._law = law
        self._holds = holds
        self._prices = prices
        self._read = read

    async def cleared(
        self, job: BatchJob, version: DeploymentVersion, principal: Principal, items: Sequence[BatchItem]
    ) -> tuple[list[Cleared], list[BatchItem]]:
        """Asks law and money about each item. Gives those that may leave, and those that may not, with the reason.

        Raises: NamesTaken; MeshError: law or money are away.
        """
        waiting = [item for item in items if item.state is ItemState.WAITING]
        priced_as = await self._priced_as(principal, version)
        requests = await self._store.requests(job, [item.index for item in waiting])

        async def clear(item: BatchItem) -> Cleared | BatchItem:
            prompt = self._read(requests[item.index])
            try:
                return await self._clear(job, version, principal, item, prompt, priced_as)
            except MeshError as error:
                if error.kind in OF_THE_ITEM or error.reason.startswith("BUDGET_"):
                    return replace(item, state=ItemState.FAILED, reason=error.reason)
                if error.reason == RequestIdReused.reason:
                    raise NamesTaken from error
                raise

        made = await _in_groups(waiting, clear)
        return (
            [one for one in made if isinstance(one, Cleared)],
            [one for one in made if isinstance(one, BatchItem)],
        )

    async def _clear(
        self,
        job: BatchJob,
        version: DeploymentVersion,
        principal: Principal,
        item: BatchItem,
        prompt: Prompt,
        priced_as: str,
    ) -> Cleared:
        context = context_of(job, item)
        asked = Asked(
            principal=principal, context=context, model=version.name, prompt=prompt, repeatable=True, deadline=0.0
        )
        verdict = await judged_before(asked, version, law=self._law)
        raise_if_blocked(verdict, Stage.BEFORE)
        prompt = prompt.as_law_left(verdict.parts)
        hold = await self._holds.reserve(
            principal,
            context,
            job.to_reserve(item.index),
            provider=job.payee,
            model=priced_as,
            bound=asked.bound(version, prompt),
            ttl=_RESERVED,
        )
        if not hold.open:
            raise NamesTaken
        held = replace(item, hold_id=hold.id, outcome=_begun(version, hold.id, verdict))
        return Cleared(item=held, prompt=prompt, verdict=verdict)

    async def _priced_as(self, principal: Principal, version: DeploymentVersion) -> str:
        """Gives the name under which the price list knows the model in batches, else its own."""
        patient = f"{version.model}{BATCH_PRICE}"
        return patient if await self._prices.has_own(principal, version.payee, patient) else version.model

    async def dispatched(
        self, version: DeploymentVersion, principal: Principal, cleared: Sequence[Cleared]
    ) -> tuple[Mapping[str, BatchCall], list[BatchItem]]:
        """Marks what is held as leaving now; gives the calls by hold, and items that money does not hold so long."""
        refused: list[BatchItem] = []

        async def dispatch(one: Cleared) -> BatchCall | None:
            try:
                hold = await self._holds.dispatch_reserved(principal, one.item.hold_id, life=_DISPATCHED)
            except MeshError as error:
                if error.kind not in OF_THE_ITEM and not error.reason.startswith("BUDGET_"):
                    raise
                await self._holds.release(principal, one.item.hold_id, dispatched_unbilled=True)
                refused.append(replace(one.item, state=ItemState.FAILED, reason=error.reason, outcome=None))
                return None
            return _call(version, one, hold)

        calls = await _in_groups(cleared, dispatch)
        return {call.name: call for call in calls if call is not None}, refused

    async def given_back(self, principal: Principal, items: Sequence[BatchItem]) -> list[BatchItem]:
        """Frees what is held for items that have certainly not left; they wait again."""
        held = [item for item in items if item.state in (ItemState.WAITING, ItemState.SENT) and item.hold_id]

        async def release(item: BatchItem) -> BatchItem:
            await self._holds.release(principal, item.hold_id, dispatched_unbilled=True)
            return replace(item, state=ItemState.WAITING, hold_id="", outcome=None)

        return await _in_groups(held, release)


def _begun(version: DeploymentVersion, hold_id: str, before: Verdict) -> Unjudged:
    """Gives what the answer begins as: everything but what the provider will say."""
    draft = Answer(
        parts=(),
        stop_reason=StopReason.STOP,
        usage=Usage(),
        usage_known=False,
        provider=version.payee,
        model=version.model,
        hold_id=hold_id,
        cost_nano_usd=0,
        verdict_ids=(before.id,),
        bundle_digest=before.bundle_digest,
        rules=before.rules,
        provider_us=0,
        deployment=version.name,
        deployment_version=version.version,
    )
    return Unjudged(draft=draft, target=version.model)


def _call(version: DeploymentVersion, one: Cleared, hold: DispatchedHold) -> BatchCall:
    clearance = Clearance(hold=hold, verdict_id=one.verdict.id)
    return BatchCall(
        call=ProviderCall(
            deployment=version, prompt=one.prompt, clearance=clearance, seconds=_DISPATCHED.total_seconds()
        )
    )


async def _in_groups(items: Sequence[Given], work: Callable[[Given], Awaitable[Made]]) -> list[Made]:
    """Does something to many, some at a time, and waits for all of a group, also where one fails."""
    made: list[Made] = []
    for first in range(0, len(items), _AT_ONCE):
        group = await asyncio.gather(*(work(item) for item in items[first : first + _AT_ONCE]), return_exceptions=True)
        for one in group:
            if isinstance(one, BaseException):
                raise one
            made.append(one)
    return made
