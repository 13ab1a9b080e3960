"""One call of a model as it was asked for."""

from dataclasses import dataclass, field

from services.inference.domain.call_policy import USUAL, CallPolicy
from services.inference.domain.prompt import Prompt
from services.inference.domain.reliability.disconnect import seconds_alone
from services.meshkit.content import CallContext, CallKey
from services.meshkit.core.identity import Principal
from services.meshkit.core.tenant import GuardedTenantState


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A checked request to generate."""

    principal: Principal
    context: CallContext
    #: `default` or the name of a deployment.
    model: str
    prompt: Prompt
    #: False for a direct call without an id of its own: nobody can repeat it.
    repeatable: bool
    #: Time of the monotonic clock at which the answer is no longer wanted.
    deadline: float
    policy: CallPolicy = USUAL
    #: Identity of the intent. Made once: it reads all of the prompt.
    arguments_hash: bytes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "arguments_hash", self.prompt.arguments_hash(self.model))

    def regions(self, tenant: GuardedTenantState) -> tuple[str, ...]:
        """Gives the regions that content must stay in, all of them: what the call says and what its tenant does."""
        return self.context.residency_region, tenant.residency_region

    def seconds_alone(self, others: int) -> float:
        """Gives how long the call goes on when nobody follows it any longer.

        Args:
            others: calls that go on so already.
        """
        return seconds_alone(self.policy.on_disconnect, repeatable=self.repeatable, others=others)

    @property
    def key(self) -> CallKey:
        """Which call this is, of whom."""
        return CallKey(tenant=self.principal.tenant, call_id=self.context.call_id)
