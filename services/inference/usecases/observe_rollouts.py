"""Watches the rollouts of this replica's calls."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from services.inference.domain.rollout.judgement import Seen
from services.inference.domain.rollout.rollout import Rollout
from services.inference.domain.rollout.watch import BadEvent, Watch
from services.inference.domain.route import AttemptOutcome, Trial
from services.meshkit.core.identity import TenantId


@dataclass(slots=True)
class Observed:
    """What this replica has seen of one rollout."""

    tenant: TenantId
    rollout: Rollout
    watch: Watch = field(default_factory=Watch)
    #: What it goes by while the database is away.
    seen: Seen = field(default_factory=Seen)
    #: Bad events that no other replica knows of yet.
    fresh: list[BadEvent] = field(default_factory=list[BadEvent])

    def __post_init__(self) -> None:
        self.seen.tallies = self.watch.tallies


class ObserveRollouts:
    """Keeps what was seen of each running rollout. Forgets it when told that the rollout has ended."""

    def __init__(self) -> None:
        self._observed: dict[str, Observed] = {}

    def note(self, trial: Trial, outcome: AttemptOutcome) -> None:
        """Takes in what came of a call on one side."""
        observed = self._observed.get(trial.rollout.id)
        if observed is None:
            observed = self._observed[trial.rollout.id] = Observed(trial.tenant, trial.rollout)
        events = observed.watch.note(
            trial.unit, trial.arm, outcome, share_permille=trial.rollout.share_permille, step=trial.rollout.step
        )
        observed.fresh.extend(events)
        observed.seen.note(events)

    def of(self, rollout_id: str) -> Observed | None:
        """Gives what was seen of a rollout; None: nothing."""
        return self._observed.get(rollout_id)

    def keep_only(self, running: Sequence[str]) -> None:
        """Forgets all rollouts but these."""
        self._observed = {key: one for key, one in self._observed.items() if key in running}
