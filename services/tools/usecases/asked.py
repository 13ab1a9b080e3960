"""One call of a tool as it was asked for."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import rfc8785

from services.meshkit.content import CallContext, CallKey, Label
from services.meshkit.core.identity import Principal
from services.tools.domain.reference import Reference


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request to call a tool."""

    principal: Principal
    context: CallContext
    reference: Reference
    #: A JSON object, open by nature; the tool's schema checks it.
    arguments: Mapping[str, object]
    #: Label of what led to the call.
    choice: Label
    #: False for a direct call without an id of its own: nobody can repeat it.
    repeatable: bool
    #: Time of the monotonic clock at which the answer is no longer wanted.
    deadline: float

    @property
    def key(self) -> CallKey:
        """Which call this is, of whom."""
        return CallKey(tenant=self.principal.tenant, call_id=self.context.call_id)

    @property
    def arguments_hash(self) -> bytes:
        """Identity of the intent: the tool as it was named, so that a newer version makes no other intent."""
        intent: dict[str, Any] = {"tool": str(self.reference), "arguments": dict(self.arguments)}
        return sha256(rfc8785.dumps(intent)).digest()
