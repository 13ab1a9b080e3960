"""What the audit trail will say about the mutation that the running code makes.

The layer around an RPC drafts the entry, use cases name its target with `note`, and the transaction of the mutation
writes it with its commit (`meshkit.sql.scope`): forgetting is not possible, and writing twice is not either.
"""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final

from services.meshkit.core.identity import Principal, TenantId

#: Most details of an entry, and the most characters of a name, a value and any other text.
MAX_DETAILS: Final = 16
MAX_NAME: Final = 64
MAX_TEXT: Final = 256


@dataclass(slots=True, kw_only=True)
class AuditDraft:
    """An entry that is not written yet; `comitia/common/v1/audit.proto` explains the fields."""

    action: str
    method: str
    #: None until the caller has proven who it is; an entry without tenant is never written.
    tenant: TenantId | None = None
    actor: str = ""
    peer: str = ""
    target: str = ""
    request_hash: bytes = b""
    request_id: str = ""
    correlation_id: str = ""
    source_address: str = ""
    details: dict[str, str] = field(default_factory=dict[str, str])
    #: True once a transaction has committed it.
    written: bool = False

    def name_actor(self, tenant: TenantId, actor: str, *, peer: str | None = None) -> None:
        """Says who is acting, once that is known."""
        self.tenant, self.actor, self.peer = tenant, actor, peer or ""


_draft: ContextVar[AuditDraft | None] = ContextVar("audit_draft", default=None)


def enter_draft(draft: AuditDraft) -> None:
    """Makes `draft` the entry of the rest of the running task and of the tasks it starts."""
    _draft.set(draft)


def current_draft() -> AuditDraft | None:
    """Gives the entry of the running call, None outside calls that are audited."""
    return _draft.get()


def pending_draft() -> AuditDraft | None:
    """Gives the entry that the next commit has to write, if there is one."""
    draft = _draft.get()
    return None if draft is None or draft.written else draft


def note(*, target: str | None = None, details: Mapping[str, object] | None = None) -> None:
    """Says what the running mutation is done to. Call it before the commit; outside audited calls it does nothing.

    Args:
        target: id of the thing, such as `key_…`.
        details: few and short facts that help a reader, such as a new limit. Never content, never secrets. Longer
            texts are cut, and of more than 16 facts the first are kept.
    """
    draft = pending_draft()
    if draft is None:
        return
    if target is not None:
        draft.target = plain(target)
    for name, value in (details or {}).items():
        if name in draft.details or len(draft.details) < MAX_DETAILS:
            draft.details[plain(name, most=MAX_NAME)] = plain(str(value))


@contextmanager
def mesh_acts(
    service: str, tenant: TenantId, *, action: str, target: str, details: Mapping[str, object] | None = None
) -> Generator[None]:
    """Has the next commit of the block write an entry for work that the mesh does by itself, without a caller.

    Args:
        service: which service acts; the actor is `service:<name>`.
        action: the permission that a caller would need.
    """
    draft = AuditDraft(action=action, method="", tenant=tenant, actor=f"service:{service}")
    with _acting(draft, target=target, details=details):
        yield


@contextmanager
def caller_acts(
    principal: Principal, *, action: str, method: str, target: str, details: Mapping[str, object] | None = None
) -> Generator[None]:
    """Has the next commit of the block write an entry for a call that is on record in some cases only.

    Args:
        action: the permission that the caller needs in this case.
        method: the RPC.
    """
    draft = AuditDraft(action=action, method=method, tenant=principal.tenant, actor=principal.subject)
    with _acting(draft, target=target, details=details):
        yield


@contextmanager
def _acting(draft: AuditDraft, *, target: str, details: Mapping[str, object] | None) -> Generator[None]:
    token = _draft.set(draft)
    note(target=target, details=details)
    try:
        yield
    finally:
        _draft.reset(token)


def plain(text: str, *, most: int = MAX_TEXT) -> str:
    """Cuts a text to what an entry takes, and replaces what Postgres cannot store."""
    cut = text if len(text) <= most else f"{text[: most - 1]}…"
    return cut.replace("\x00", "\ufffd")
