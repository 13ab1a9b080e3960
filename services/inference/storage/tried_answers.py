"""Answers of the sides of rollouts, and how good somebody said they were, in Postgres."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final
from uuid import UUID

from sqlalchemy import and_, case, exists, func, literal, not_, select, update
from sqlalchemy.dialects.postgresql import insert

from services.inference.domain.rollout.rollout import RolloutState
from services.inference.domain.rollout.scores import USUAL_FROM, USUAL_OF
from services.inference.domain.route import Arm
from services.inference.storage.rollout_tables import model_rollout, rollout_score, tried_answer
from services.inference.usecases.learning_ports import TriedAnswer
from services.meshkit.core.errors import AlreadyExists
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import from_uuid, to_uuid
from services.meshkit.sql.scope import Scope

_AT_ONCE: Final = 1_000
#: Scores count in hundredths, so that many of them are alike.
HUNDREDTHS: Final = 100
#: What is usual counts finer: rounding it would move the margin of all scores to one side.
PERMILLE: Final = 1_000


async def keep_tried(scope: Scope, tenant: TenantId, answers: Sequence[TriedAnswer]) -> None:
    """Keeps answers, each once."""
    rows = [
        {
            "tenant_id": tenant,
            "hold_id": to_uuid(one.hold_id, "hold"),
            "rollout_id": to_uuid(one.trial.rollout.id, "rollout"),
            "unit": one.trial.unit,
            "canary": one.trial.arm is Arm.CANARY,
            "share_permille": one.trial.rollout.share_permille,
            "step": one.trial.rollout.step,
            "project": one.trial.project,
        }
        for one in answers
    ]
    for first in range(0, len(rows), _AT_ONCE):
        statement = insert(tried_answer).values(answer_time=func.now()).on_conflict_do_nothing()
        await scope.execute(statement, rows[first : first + _AT_ONCE])


async def score_tried(
    scope: Scope, tenant: TenantId, hold: UUID, quality: float, *, project: str | None, within: timedelta
) -> bool:
    """Takes in how good an answer of a side was. False: there is no such answer.

    Only while its rollout runs it counts there, and only the first one of a unit in a step.
    Raises: AlreadyExists.
    """
    answer = tried_answer.c
    mine = (answer.tenant_id == tenant, answer.hold_id == hold)
    wanted = select(tried_answer).where(*mine, answer.answer_time > func.now() - within).with_for_update()
    if project is not None:
        wanted = wanted.where(answer.project == project)
    row = (await scope.execute(wanted)).mappings().one_or_none()
    if row is None:
        return False
    if row["scored"]:
        raise AlreadyExists("quality", from_uuid("hold", hold))
    await scope.execute(update(tried_answer).where(*mine).values(scored=True))
    columns = rollout_score.c
    of_rollout = and_(columns.tenant_id == tenant, columns.rollout_id == row["rollout_id"])
    latest = (
        select(columns.score_percent)
        .where(of_rollout, not_(columns.canary))
        .order_by(columns.score_time.desc())
        .limit(USUAL_OF)
        .subquery()
    )
    average = func.round(func.avg(latest.c.score_percent) * (PERMILLE // HUNDREDTHS))
    usual = select(case((func.count() >= USUAL_FROM, average))).scalar_subquery()
    values = {
        **{name: literal(row[name], columns[name].type) for name in _OF_THE_ANSWER},
        "score_percent": literal(round(quality * HUNDREDTHS)),
        "usual_permille": usual,
        "first": not_(exists().where(of_rollout, columns.unit == row["unit"])),
        "score_time": func.clock_timestamp(),
    }
    running = exists().where(
        model_rollout.c.tenant_id == tenant,
        model_rollout.c.rollout_id == row["rollout_id"],
        model_rollout.c.state == RolloutState.RUNNING.value,
    )
    scored = insert(rollout_score).from_select(list(values), select(*values.values()).where(running))
    await scope.execute(scored.on_conflict_do_nothing())
    return True


_OF_THE_ANSWER: Final = ("tenant_id", "rollout_id", "unit", "step", "canary", "share_permille")
