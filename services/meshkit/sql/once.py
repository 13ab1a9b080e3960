"""The storage side of a request that may come again: claimed before the work, answered in its commit.

A repository calls both around what it writes. Without a `request_id` they do nothing.
"""

from dataclasses import replace

from services.meshkit.core.once import AnsweredBefore, Once, current_once
from services.meshkit.crypto.keyring import KeyRing
from services.meshkit.sql.request_ids import RequestKey, claim, keep
from services.meshkit.sql.scope import DriverScope, Scope


async def claim_once(scope: Scope | DriverScope, *, keys: KeyRing | None = None) -> None:
    """Claims the running request, if it has an id, in the transaction that does its work, before the work.

    Args:
        keys: opens the answer, where `keep_once` seals it.
    Raises: AnsweredBefore: it is a repeat. RequestIdReused; RequestInProgress.
    """
    this = current_once()
    if this is None:
        return
    this.claimed = True
    answer = await claim(scope, key_of(this), this.body)
    if answer is None:
        return
    raise AnsweredBefore(answer if keys is None else await keys.open(this.tenant, answer, aad=place_of(this)))


async def keep_once(scope: Scope | DriverScope, made: object, *, keys: KeyRing | None = None) -> None:
    """Keeps the answer to the running request, if it has an id; the commit that follows makes both true.

    Args:
        made: what the servicer writes the answer of.
        keys: seals the answer, where it holds content.
    """
    this = current_once()
    if this is None:
        return
    answer = this.answer(made)
    sealed = answer if keys is None else await keys.seal(this.tenant, answer, aad=place_of(this))
    await keep(scope, key_of(this), sealed)


async def resume_once(scope: Scope | DriverScope) -> bytes | None:
    """Gives how far the running request came in transactions before, None at its beginning or without an id.

    For work of several transactions, each of which resumes it first and keeps its progress; the last keeps its answer.

    Raises: RequestIdReused; RequestInProgress: a transaction of it is at work.
    """
    this = current_once()
    return None if this is None else await claim(scope, _progress_of(this), this.body)


async def keep_progress(scope: Scope | DriverScope, progress: bytes) -> None:
    """Keeps how far the running request came, if it has an id, after `resume_once` in the same transaction."""
    this = current_once()
    if this is not None:
        await keep(scope, _progress_of(this), progress)


def _progress_of(once: Once) -> RequestKey:
    return replace(key_of(once), method=f"{once.method}#progress")


def key_of(once: Once) -> RequestKey:
    """Names the row of a request."""
    return RequestKey(tenant=once.tenant, method=once.method, request_id=once.request_id)


def place_of(once: Once) -> bytes:
    """Names the one place in which a sealed answer opens."""
    return b"request_id/" + once.method.encode() + b"/" + once.request_id.bytes
