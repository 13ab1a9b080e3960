"""Headers of answers, in the dialect of the door."""

from datetime import datetime, timedelta

from services.inference.domain.answer import Answer
from services.inference.transport.doors.errors import Dialect
from services.meshkit.grpc.limits import Allowance


def request_headers(dialect: Dialect, request_id: str) -> dict[str, str]:
    """Names the request, as the clients of the dialect look for it."""
    return {"request-id" if dialect is Dialect.ANTHROPIC else "x-request-id": request_id}


def rate_headers(dialect: Dialect, allowance: Allowance, *, now: datetime) -> dict[str, str]:
    """Says how many requests may still come."""
    if dialect is Dialect.ANTHROPIC:
        reset = (now + timedelta(seconds=allowance.reset_seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {
            "anthropic-ratelimit-requests-limit": str(allowance.limit),
            "anthropic-ratelimit-requests-remaining": str(allowance.remaining),
            "anthropic-ratelimit-requests-reset": reset,
        }
    return {
        "x-ratelimit-limit-requests": str(allowance.limit),
        "x-ratelimit-remaining-requests": str(allowance.remaining),
        "x-ratelimit-reset-requests": f"{allowance.reset_seconds}s",
    }


def answer_headers(answer: Answer) -> dict[str, str]:
    """Says what the mesh did for the answer: who answered, after how many, and what pays for it."""
    headers = {
        "x-comitia-deployment": answer.deployment or f"{answer.provider}/{answer.model}",
        "x-comitia-attempts": str(len(answer.failed_attempts) + 1),
        "x-comitia-hold-id": answer.hold_id,
    }
    if answer.choice is not None:
        headers["x-comitia-choice"] = f"{answer.choice.mode} {answer.choice.tier}"
    if answer.cached:
        headers["x-comitia-cache"] = f"near; {answer.cache_similarity:.4f}" if answer.cache_similarity else "hit"
    if answer.lost_attempts:
        headers["x-comitia-lost-attempts"] = str(answer.lost_attempts)
    if answer.replayed:
        headers["idempotent-replayed"] = "true"
    return headers
