"""What can go wrong when a tool is registered or called.

MeshError
├── Invalid ─┬────────── SchemaInvalid             SCHEMA_INVALID
│            └────────── ToolArgumentsWrong        TOOL_ARGUMENTS_WRONG
├── NotFound ─────────── ToolNotFound              TOOL_NOT_FOUND
├── AlreadyExists ────── ToolVersionExists         TOOL_VERSION_EXISTS
├── PermissionDenied ─┬─ ToolNotAllowed            TOOL_NOT_ALLOWED
│                     └─ LawBlocked                LAW_BLOCKED
├── Exhausted ─┬──────── ToolRateLimited           TOOL_RATE_LIMITED
│              ├──────── TooManyToolCalls          TOO_MANY_TOOL_CALLS
│              └──────── TooManyTools              TOO_MANY_TOOLS
└── Conflict ─────────── CallArgumentsDiffer       CALL_ARGUMENTS_DIFFER

A tool that fails is no error: its result says so, for the model to read.
"""

from datetime import timedelta

from services.meshkit.content import CallId
from services.meshkit.core.errors import AlreadyExists, Conflict, Exhausted, Invalid, NotFound, PermissionDenied


class SchemaInvalid(Invalid):
    """A JSON Schema of a tool cannot be used. The sentence says why, `path` where in the schema."""

    reason = "SCHEMA_INVALID"

    def __init__(self, field: str, sentence: str, *, path: str = "") -> None:
        super().__init__(field, f"at {path}: {sentence}" if path else sentence, path=path or "/")


class ToolArgumentsWrong(Invalid):
    """The arguments are not what the tool's schema asks for. The model may try again with others."""

    reason = "TOOL_ARGUMENTS_WRONG"

    def __init__(self, field: str, sentence: str, *, tool: str) -> None:
        super().__init__(field, sentence, tool=tool, argument=field)


class ToolNotFound(NotFound):
    """No such tool, or no such version of it. ListTools names those that exist."""

    reason = "TOOL_NOT_FOUND"

    def __init__(self, reference: str) -> None:
        super().__init__("tool", reference)


class ToolVersionExists(AlreadyExists):
    """The version is there with another definition, and versions never change. Register the next version."""

    reason = "TOOL_VERSION_EXISTS"

    def __init__(self, reference: str) -> None:
        super().__init__("tool", reference)


class TooManyTools(Exhausted):
    """The tenant has as many versions of tools as it may have."""

    reason = "TOO_MANY_TOOLS"

    def __init__(self, most: int) -> None:
        super().__init__(f"a tenant may have at most {most} versions of tools", most=most)


class ToolNotAllowed(PermissionDenied):
    """The tool does not list this agent among those that may call it, or the tenant's own rules forbid the tool."""

    reason = "TOOL_NOT_ALLOWED"

    def __init__(self, tool: str, *, agent: str = "", by_tenant: bool = False) -> None:
        if by_tenant:
            super().__init__(
                f"the security policy of your tenant does not allow {tool!r}; an administrator of it can", tool=tool
            )
            return
        who = f"agent {agent!r}" if agent else "a caller that names no agent"
        super().__init__(f"{who} may not call {tool!r}; its allowed_agents say who may", tool=tool, agent=agent or None)


class LawBlocked(PermissionDenied):
    """The law stops the call. The verdict names the rules."""

    reason = "LAW_BLOCKED"

    def __init__(self, *, verdict_id: str, stage: str, rules: tuple[str, ...], bundle: str) -> None:
        named = ", ".join(rules) or "unnamed"
        super().__init__(
            f"the law {bundle!r} stopped this call {stage} the tool; rules: {named}",
            verdict_id=verdict_id,
            stage=stage,
            rules=named,
            bundle=bundle,
        )


class ToolRateLimited(Exhausted):
    """The tenant has called this tool as often as the tool allows. Try again when the hint says."""

    reason = "TOOL_RATE_LIMITED"

    def __init__(self, tool: str, *, per_minute: int, wait_seconds: float) -> None:
        super().__init__(
            f"{tool!r} takes {per_minute} calls per minute; try again in {wait_seconds:.1f} s",
            retry_after=timedelta(seconds=wait_seconds),
            tool=tool,
            per_minute=per_minute,
        )


class TooManyToolCalls(Exhausted):
    """As many tool calls are running as this replica makes at once. Try again shortly."""

    reason = "TOO_MANY_TOOL_CALLS"

    def __init__(self, most: int) -> None:
        super().__init__(
            f"{most} tool calls are running already; try again shortly", retry_after=timedelta(seconds=1), most=most
        )


class CallArgumentsDiffer(Conflict):
    """The same call id came before with other arguments. Adopt the recorded intent, or use another id."""

    reason = "CALL_ARGUMENTS_DIFFER"

    def __init__(self, call_id: CallId) -> None:
        super().__init__(f"the call {call_id} was made before with other arguments", call_id=call_id)
