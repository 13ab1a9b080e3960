"""What replicas saw of rollouts, in Postgres."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from hashlib import sha256
from typing import Final

from sqlalchemy import ColumnElement, Table, delete, exists, func, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from services.inference.domain.rollout.judgement import Seen
from services.inference.domain.rollout.rollout import Rollout
from services.inference.domain.rollout.watch import BadEvent, Metric, Tally
from services.inference.domain.route import Arm
from services.inference.storage.rollout_sums import add_up, read_seen
from services.inference.storage.rollout_tables import (
    model_rollout,
    rollout_event,
    rollout_event_sum,
    rollout_score,
    rollout_score_sum,
    rollout_tally,
)
from services.meshkit.core.clock import Clock
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import to_uuid
from services.meshkit.sql.scope import maintenance_scope, tenant_scope

#: Held by the replica that judges.
_JUDGE_LOCK: Final = int.from_bytes(sha256(b"comitia.rollout_judge").digest()[:8], "big", signed=True)
_AT_ONCE: Final = 1_000
#: How long is kept what a rollout was judged by, after its end.
EVIDENCE_KEPT: Final = timedelta(days=30)
#: Rollouts that are forgotten at once, each in a transaction of its own.
_ROLLOUTS_AT_ONCE: Final = 100
_EVIDENCE: Final = (rollout_event, rollout_event_sum, rollout_tally, rollout_score, rollout_score_sum)


def _has(table: Table) -> ColumnElement[bool]:
    return exists().where(
        table.c.tenant_id == model_rollout.c.tenant_id, table.c.rollout_id == model_rollout.c.rollout_id
    )


_ENDED_LONG_AGO: Final = (
    select(model_rollout.c.tenant_id, model_rollout.c.rollout_id)
    .where(model_rollout.c.decided_time < func.now() - EVIDENCE_KEPT, or_(*map(_has, _EVIDENCE)))
    .limit(_ROLLOUTS_AT_ONCE)
)


class SqlRolloutRecords:
    """Implements `RolloutRecords`.

    Args:
        replica: name of this process, which no other has.
    """

    def __init__(self, app: AsyncEngine, maintenance: AsyncEngine, *, replica: str, clock: Clock) -> None:
        self._app = app
        self._maintenance = maintenance
        self._replica = replica
        self._clock = clock

    async def add(
        self, tenant: TenantId, rollout_id: str, events: Sequence[BadEvent], tallies: Mapping[Arm, Tally], *, step: int
    ) -> None:
        """See `RolloutRecords.add`."""
        about, now = to_uuid(rollout_id, "rollout"), self._clock.now()
        tallied = [
            {
                "tenant_id": tenant,
                "rollout_id": about,
                "replica": self._replica,
                "metric": metric.value,
                "canary": arm is Arm.CANARY,
                "step": step,
                "units": tally.units,
                "bad": tally.bad[metric],
            }
            for arm, tally in tallies.items()
            for metric in Metric
        ]
        async with tenant_scope(self._app, tenant, audited=False) as scope:
            for first in range(0, len(events), _AT_ONCE):
                rows = [
                    {
                        "tenant_id": tenant,
                        "rollout_id": about,
                        "metric": event.metric.value,
                        "unit": event.unit,
                        "canary": event.arm is Arm.CANARY,
                        "share_permille": event.share_permille,
                        "event_time": now,
                    }
                    for event in events[first : first + _AT_ONCE]
                ]
                await scope.execute(insert(rollout_event).on_conflict_do_nothing(), rows)
            statement = insert(rollout_tally)
            await scope.execute(
                statement.on_conflict_do_update(
                    constraint="pk_rollout_tally",
                    set_={"units": statement.excluded.units, "bad": statement.excluded.bad},
                ),
                tallied,
            )
            await scope.commit()

    async def judged(self, tenant: TenantId, rollout: Rollout) -> Seen:
        """See `RolloutRecords.judged`."""
        async with tenant_scope(self._app, tenant, audited=False) as scope:
            await add_up(scope, tenant, rollout)
            seen = await read_seen(scope, tenant, rollout)
            await scope.commit()
        return seen

    async def forget(self) -> None:
        """See `RolloutRecords.forget`."""
        async with maintenance_scope(self._maintenance, read_only=True) as scope:
            ended = (await scope.execute(_ENDED_LONG_AGO)).all()
        for tenant, about in ended:
            async with maintenance_scope(self._maintenance) as scope:
                for table in _EVIDENCE:
                    await scope.execute(delete(table).where(table.c.tenant_id == tenant, table.c.rollout_id == about))
                await scope.commit()

    @asynccontextmanager
    async def judging(self) -> AsyncGenerator[bool]:
        """See `RolloutRecords.judging`."""
        async with maintenance_scope(self._maintenance, read_only=True) as scope:
            yield bool((await scope.execute(select(func.pg_try_advisory_xact_lock(_JUDGE_LOCK)))).scalar_one())
