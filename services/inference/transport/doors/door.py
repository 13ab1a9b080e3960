"""What every door has in common: a visit, and what is asked of a model in it."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Final, Protocol

from aiohttp import web

from services.inference.domain.answer import Answer, StreamEvent
from services.inference.domain.call_policy import CallPolicy, MidStream
from services.inference.domain.prompt import Prompt
from services.inference.transport.doors.errors import Dialect
from services.inference.usecases.asked import Asked
from services.inference.usecases.ports import Registry
from services.meshkit.content import CallContext, CallId
from services.meshkit.content.call import DIRECT, KEYED
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import Invalid
from services.meshkit.core.identity import Principal, TenantId
from services.meshkit.core.ids import IdSource

#: Names a request, so that its repeat gets the first answer.
IDEMPOTENCY_KEY: Final = "idempotency-key"
_MOST_KEY: Final = 255


class Writes(Protocol):
    """Writes one streamed answer in the dialect of a door, event by event."""

    def text(self, text: str) -> bytes:
        """Writes text that the law passed."""
        ...

    def end(self, answer: Answer) -> bytes:
        """Writes what is left of the answer, why it ended, and what it used."""
        ...

    def broken(self, body: dict[str, object]) -> bytes:
        """Writes that it failed.

        Args:
            body: the failure, as a response of its own would tell it.
        """
        ...


@dataclass(slots=True, kw_only=True)
class Visit:
    """One request at a door, by somebody who may come in."""

    request: web.BaseRequest
    id: str
    #: What the path says beyond that of the door.
    rest: str
    #: Time of the monotonic clock at which the answer is no longer wanted.
    deadline: float
    #: Who comes; known once they were let in.
    principal: Principal = field(init=False)
    #: Headers of the response, whatever it says.
    headers: dict[str, str] = field(default_factory=dict[str, str])
    #: The response, once its head has left.
    begun: web.StreamResponse | None = None
    #: What writes into it; there once it has begun.
    said: Writes = field(init=False)


class Door(Protocol):
    """Answers requests at one path."""

    @property
    def dialect(self) -> Dialect:
        """Whose clients come here."""
        ...

    @property
    def rpc(self) -> str:
        """The RPC whose permission and limits hold here."""
        ...

    async def __call__(self, visit: Visit) -> web.StreamResponse:
        """Answers. Raises: MeshError; once the head of the response has left, it is told in the stream."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """Makes calls of models: gives the whole answer, or text as it comes and the answer as the last event."""

    answer: Callable[[Asked], Awaitable[Answer]]
    stream: Callable[[Asked], AsyncGenerator[StreamEvent]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """Turns visits into calls of models."""

    #: For calls that a repeat finds again, and for those that none does.
    keyed: Calls
    unkeyed: Calls
    #: Raises ModelBusy when one more call of a tenant would be turned away.
    check_seats: Callable[[TenantId], None]
    #: Knows what calls do that do not say it themselves; at a door none does.
    registry: Registry
    clock: Clock
    ids: IdSource

    async def body(self, visit: Visit) -> bytes:
        """Reads the body, unless the call would be turned away whatever it says: a refusal is to cost little.

        Raises: ModelBusy.
        """
        if IDEMPOTENCY_KEY not in visit.request.headers:
            self.check_seats(visit.principal.tenant)
        return await visit.request.read()

    def asked(self, visit: Visit, model: str, prompt: Prompt, *, door: str, user: str | None) -> Asked:
        """Gives what is asked. At a door the key is the agent, so what it uses and may use is kept for each key.

        Args:
            user: for whom the client says that it asks: rollouts keep them on one side.
        Raises: Invalid: the key that names the request is none.
        """
        principal, key = visit.principal, visit.request.headers.get(IDEMPOTENCY_KEY)
        if key is None:
            run_id = self.ids.new(DIRECT)
        else:
            if not (0 < len(key) <= _MOST_KEY and key.isascii()):
                raise Invalid(IDEMPOTENCY_KEY, f"must be 1 to {_MOST_KEY} ASCII characters")
            named = sha256(f"{principal.subject}\x00{key}".encode()).hexdigest()
            run_id = f"{KEYED}_{named[:32]}"
        return Asked(
            principal=principal,
            context=CallContext(
                call_id=CallId(run_id=run_id, path=door), agent_name=principal.subject, project=principal.project or ""
            ),
            model=model,
            prompt=prompt,
            repeatable=key is not None,
            deadline=visit.deadline,
            policy=self._policy(principal, model, sticky_key=f"{principal.subject}\x00{user}" if user else ""),
        )

    def _policy(self, principal: Principal, model: str, *, sticky_key: str) -> CallPolicy:
        usual = self.registry.policy(principal.tenant, model)
        # At a door nobody can be told that what was shown is void.
        restarts = usual.mid_stream is MidStream.RESTART
        return replace(usual, mid_stream=MidStream.CONTINUE if restarts else usual.mid_stream, sticky_key=sticky_key)

    def calls(self, asked: Asked) -> Calls:
        """Gives who makes the call."""
        return self.keyed if asked.repeatable else self.unkeyed
