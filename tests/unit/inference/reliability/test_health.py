"""How a replica finds a version."""

from services.inference.domain.reliability.breaker import BreakerState
from services.inference.domain.reliability.health import Health, HealthNotes
from services.inference.domain.route import AttemptOutcome
from tests.support.inference import OPENAI


def found(notes: HealthNotes, *, now: float = 0.0) -> Health:
    return notes.read(OPENAI, breaker=BreakerState.CLOSED, now=now)


def test_nothing_is_said_of_a_version_that_was_never_asked() -> None:
    assert found(HealthNotes()) == Health(version=OPENAI)


def test_half_of_the_latest_answers_took_less_than_the_middle_one() -> None:
    notes = HealthNotes()
    for latency in (*[9_000_000] * 200, *range(1, 201)):
        notes.note(AttemptOutcome(latency_us=latency), 0.0)
    health = found(notes)
    assert (health.p50_us, health.p95_us) == (101, 191)


def test_a_failure_is_remembered_unless_it_is_somebody_elses() -> None:
    notes = HealthNotes()
    notes.note(AttemptOutcome(latency_us=5, reason="PROVIDER_UNAVAILABLE"), 10.0)
    for other in ("LAW_BLOCKED", "BUDGET_EXHAUSTED", "CANCELLED"):
        notes.note(AttemptOutcome(latency_us=5, reason=other), 11.0)
    health = found(notes, now=12.5)
    assert (health.last_failure, health.failed_seconds_ago, health.p50_us) == ("PROVIDER_UNAVAILABLE", 2.5, 0)
