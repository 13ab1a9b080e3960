"""Asks a version whether it is what it says it is."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Final
from uuid import UUID

from services.inference.domain.call_policy import CacheUse, CallPolicy
from services.inference.domain.deployment import Task, VersionState
from services.inference.domain.errors import ProviderFailure, ProviderRateLimited, ProviderUnavailable
from services.inference.domain.prompt import Prompt
from services.inference.domain.registered import RegisteredVersion
from services.inference.domain.registry import AT
from services.inference.usecases.asked import Asked
from services.inference.usecases.embed import AskedVectors, Embed
from services.inference.usecases.ports import MakesCalls
from services.inference.usecases.register_models import RegisterModels
from services.meshkit.content import CallContext, Integrity, Label, Message, MessageRole, text_part
from services.meshkit.core.identity import Principal, TenantId
from services.meshkit.core.once import RequestInProgress, current_once

_QUESTION: Final = "Answer with the one word: ready"
_LABEL: Final = Label(integrity=Integrity.TRUSTED)
_MOST_TOKENS: Final = 16
#: What was answered once says nothing of now.
_ASKED_ANEW: Final = CallPolicy(cache=CacheUse.NO)
#: What passes by itself.
_FOR_A_MOMENT: Final = (ProviderRateLimited, ProviderUnavailable)


class CheckModels:
    """Makes one small call under law and money, as any other; its answer, or why there is none, is what was found."""

    def __init__(self, *, register: RegisterModels, model_call: MakesCalls, embed: Embed) -> None:
        self._register = register
        self._model_call = model_call
        self._embed = embed
        self._at_work: set[tuple[TenantId, UUID]] = set()

    async def __call__(
        self, principal: Principal, context: CallContext, deployment_id: str, number: int, *, deadline: float
    ) -> RegisteredVersion:
        """Gives the version as the check leaves it: ready, or refused with why.

        Raises: ModelNotFound; what law and money raise: they say nothing of the version; ProviderRateLimited,
            ProviderUnavailable: they say nothing of one that was ready; for a request with an id what `once` raises.
        """
        with self._alone(principal.tenant):
            # By that this replica has heard of it, too.
            deployment = await self._register.to_check(principal.tenant, deployment_id, number)
            was = deployment.version(number).version.state
            name = f"{deployment.name}{AT}{number}"
            failures: tuple[str, ...] = ()
            try:
                if deployment.task is Task.EMBED:
                    await self._embed(_vectors(principal, context, name, deadline))
                else:
                    await self._ask(principal, context, name, deadline)
            except ProviderFailure as error:
                if isinstance(error, _FOR_A_MOMENT) and was is VersionState.READY:
                    raise
                failures = (f"{error.reason}: {error.message}",)
            return await self._register.checked(principal.tenant, deployment_id, number, failures)

    @contextmanager
    def _alone(self, tenant: TenantId) -> Generator[None]:
        """Keeps a repeat from asking while the first is at work. Raises: RequestInProgress."""
        once = current_once()
        if once is None:
            yield
            return
        place = (tenant, once.request_id)
        if place in self._at_work:
            raise RequestInProgress(once.request_id)
        self._at_work.add(place)
        try:
            yield
        finally:
            self._at_work.discard(place)

    async def _ask(self, principal: Principal, context: CallContext, name: str, deadline: float) -> None:
        message = Message(role=MessageRole.USER, parts=(text_part(_QUESTION, _LABEL),))
        asked = Asked(
            principal=principal,
            context=context,
            model=name,
            prompt=Prompt(messages=(message,), max_output_tokens=_MOST_TOKENS),
            repeatable=False,
            deadline=deadline,
            policy=_ASKED_ANEW,
            checking=True,
        )
        await self._model_call(asked, _nobody_watches, streamed=False)


def _vectors(principal: Principal, context: CallContext, name: str, deadline: float) -> AskedVectors:
    texts = (_QUESTION,)
    return AskedVectors(principal=principal, context=context, model=name, texts=texts, deadline=deadline, checking=True)


def _nobody_watches(event: object) -> None:
    """Nothing is shown of a check."""
