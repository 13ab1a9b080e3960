"""One call of a model as it was asked for."""

from dataclasses import dataclass
from functools import cached_property

from services.inference.domain.call_policy import USUAL, CallPolicy
from services.inference.domain.deployment import DeploymentVersion
from services.inference.domain.money_bound import bound_of
from services.inference.domain.prompt import Prompt
from services.inference.domain.reliability.disconnect import seconds_alone
from services.meshkit.content import CallContext, CallKey, Usage
from services.meshkit.core.identity import Principal
from services.meshkit.core.tenant import GuardedTenantState


@dataclass(frozen=True, kw_only=True)
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
    #: True for the check of a version, which is asked whatever its state.
    checking: bool = False

    @cached_property
    def arguments_hash(self) -> bytes:
        """Identity of the intent. Made once, and only for who compares it: it reads all of the prompt."""
        return self.prompt.arguments_hash(self.model)

    def bound(self, version: DeploymentVersion, prompt: Prompt | None = None) -> Usage:
        """Gives the most that a version can bill. For the prompt of the call once: that reads all of it.

        Args:
            prompt: what is sent, if it is another one.
        Raises: CallNotBounded.
        """
        if prompt is not None and prompt is not self.prompt:
            return bound_of(prompt, version)
        key = version.deployment_id, version.name, version.version
        bound = self._bounds.get(key)
        if bound is None:
            bound = self._bounds[key] = bound_of(self.prompt, version)
        return bound

    @cached_property
    def _bounds(self) -> dict[tuple[str, str, int], Usage]:
        return {}

    @property
    def recorded_hash(self) -> bytes:
        """What is recorded of the intent: nothing of one that nobody can repeat, for it is never compared."""
        return self.arguments_hash if self.repeatable else b""

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
