"""Asks a version whether it is what it says it is."""

from typing import Final

from services.inference.domain.prompt import Prompt
from services.inference.domain.registered import RegisteredVersion
from services.inference.domain.registry import AT
from services.inference.usecases.asked import Asked
from services.inference.usecases.model_call import ModelCall
from services.inference.usecases.register_models import RegisterModels
from services.inference.usecases.registry_news import RegistryNews
from services.inference.usecases.registry_ports import RegistryReader
from services.meshkit.content import CallContext, Integrity, Label, Message, MessageRole, text_part
from services.meshkit.core.errors import MeshError
from services.meshkit.core.identity import Principal

_QUESTION: Final = "Answer with the one word: ready"
_LABEL: Final = Label(integrity=Integrity.TRUSTED)
_MOST_TOKENS: Final = 16


class CheckModels:
    """Makes one small call under law and money, as any other; its answer, or why there is none, is what was found."""

    def __init__(
        self,
        *,
        registered: RegistryReader,
        register: RegisterModels,
        news: RegistryNews,
        model_call: ModelCall,
    ) -> None:
        self._registered = registered
        self._register = register
        self._news = news
        self._model_call = model_call

    async def __call__(
        self, principal: Principal, context: CallContext, deployment_id: str, number: int, *, deadline: float
    ) -> RegisteredVersion:
        """Gives the version as the check leaves it: ready, or refused with why.

        Raises: ModelNotFound; what law and money raise: they say nothing of the version.
        """
        deployment = await self._registered.deployment(principal.tenant, deployment_id)
        deployment.version(number)
        # This replica may not have heard of it yet.
        await self._news.look()
        name = f"{deployment.name}{AT}{number}"
        failures: tuple[str, ...] = ()
        try:
            await self._ask(principal, context, name, deadline)
        except MeshError as error:
            if not error.reason.startswith("PROVIDER_"):
                raise
            failures = (f"{error.reason}: {error.message}",)
        return await self._register.checked(principal.tenant, deployment_id, number, failures)

    async def _ask(self, principal: Principal, context: CallContext, name: str, deadline: float) -> None:
        message = Message(role=MessageRole.USER, parts=(text_part(_QUESTION, _LABEL),))
        asked = Asked(
            principal=principal,
            context=context,
            model=name,
            prompt=Prompt(messages=(message,), max_output_tokens=_MOST_TOKENS),
            repeatable=False,
            deadline=deadline,
        )
        await self._model_call(asked, _nobody_watches, streamed=False)


def _nobody_watches(event: object) -> None:
    """Nothing is shown of a check."""
