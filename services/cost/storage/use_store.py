"""How models were used on each day: kept once a day is over, and counted from the ledger until then.

A day that is over has no new calls: its charges are of other days, or corrections, which are left out with what they
correct, since a bound that was assumed says nothing about how models are used.
"""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from asyncpg import Record
from sqlalchemy.ext.asyncio import AsyncEngine

from services.cost.domain.hold import CostKind
from services.cost.domain.use_history import CallShape, Use, UsedDay, use_of
from services.cost.storage.whole import whole
from services.meshkit.content.usage import USAGE_CLASSES, usage_of
from services.meshkit.core.identity import TenantId
from services.meshkit.core.money import NanoUsd
from services.meshkit.sql.scope import DriverScope, driver_scope

#: Uses of models that advice is looked for in, the dearest first.
_MOST_USES: Final = 200
_MOST_TENANTS: Final = 100_000
#: A provider's cache keeps a prompt for so long.
_WARM: Final = "interval '5 minutes'"
_USE: Final = "kind, provider, model, agent_name"
_PROMPT: Final = " + ".join(
    f"{name}_tokens" for name in ("input", "cache_read", "cache_write_5m", "cache_write_1h", "audio_in", "image")
)
_ANSWER: Final = " + ".join(f"{name}_tokens" for name in ("output", "reasoning", "audio_out"))
_TOKENS: Final = tuple(f"{name}_tokens" for name in USAGE_CLASSES)
_LISTED: Final = ", ".join((*_TOKENS, "cost_nano_usd", "calls", "warm_calls"))
_ADDED: Final = ", ".join(f"{whole(f'sum({name})')} AS {name}" for name in (*_TOKENS, "cost_nano_usd"))
_SUMMED: Final = ", ".join(
    f"{whole(f'sum({name})')} AS {name}" for name in (*_TOKENS, "cost_nano_usd", "calls", "warm_calls")
)


def _step(ratio: str) -> str:
    """Writes the quarter of an octave that a number falls into."""
    return f"floor(4 * ln({ratio}) / ln(2))::int"


#: One line per use and day. The shapes of calls are counted in quarters of octaves: prompt, prompt per token of answer.
_DAILY: Final = f"""
    WITH call AS (
        SELECT {_USE}, created_time, cost_nano_usd, {", ".join(_TOKENS)},
            greatest({_PROMPT}, 1)::float8 AS prompt, greatest({_ANSWER}, 1)::float8 AS answer,
            (created_time - lag(created_time) OVER (PARTITION BY {_USE} ORDER BY created_time)) <= {_WARM} AS warm
        FROM cost_event
        WHERE tenant_id = $1 AND created_time >= $2::timestamptz - {_WARM} AND created_time < $3::timestamptz
            AND NOT assumed AND note = '' AND kind IN ({int(CostKind.GENERATE)}, {int(CostKind.EMBED)})
    ), shape AS (
        SELECT {_USE}, date_trunc('day', created_time, 'UTC') AS day, {_step("prompt")} AS prompt_step,
            {_step("prompt / answer")} AS ratio_step, count(*) AS calls, count(*) FILTER (WHERE warm) AS warm_calls,
            {whole(f"sum({_PROMPT})")} AS prompt_tokens, {_ADDED}
        FROM call WHERE created_time >= $2::timestamptz GROUP BY {_USE}, day, prompt_step, ratio_step
    )
    SELECT {_USE}, day, {_SUMMED},
        array_agg(ARRAY[prompt_step, ratio_step, calls, prompt_tokens] ORDER BY prompt_step, ratio_step) AS shapes
    FROM shape GROUP BY {_USE}, day"""  # noqa: S608 - names are constants
#: A row as text quotes what it holds, so no two uses have the same.
_KEEP: Final = f"""
    INSERT INTO cost_use_day (tenant_id, day, use_key, {_USE}, {_LISTED}, shapes)
    SELECT $1, day, sha256(convert_to(ROW({_USE})::text, 'UTF8')), {_USE}, {_LISTED}, shapes
    FROM ({_DAILY}) AS used ON CONFLICT (tenant_id, day, use_key) DO NOTHING"""  # noqa: S608 - names are constants
_KEPT_TO: Final = "SELECT max(day) + interval '1 day' FROM cost_use_day WHERE tenant_id = $1"
_USES: Final = f"""
    WITH used AS MATERIALIZED (
        SELECT {_USE}, day, {_LISTED}, shapes FROM cost_use_day
        WHERE tenant_id = $1 AND day >= $4::timestamptz AND day < $2::timestamptz
        UNION ALL
        SELECT {_USE}, day, {_LISTED}, shapes FROM ({_DAILY}) AS fresh
    ), dearest AS (
        SELECT {_USE}, row_number() OVER (ORDER BY sum(cost_nano_usd) DESC, {_USE}) AS use
        FROM used GROUP BY {_USE} ORDER BY use LIMIT $5
    )
    SELECT use, used.* FROM used JOIN dearest USING ({_USE}) ORDER BY use, day"""  # noqa: S608 - names are constants
#: Tenants that used models on a day that is not kept, each with the last day that is.
_BEHIND: Final = f"""
    SELECT spent.tenant_id, kept.day FROM (
        SELECT tenant_id, max(day) AS day FROM cost_day
        WHERE day >= $1 AND day < $2 AND kind IN ({int(CostKind.GENERATE)}, {int(CostKind.EMBED)}) GROUP BY tenant_id
    ) AS spent CROSS JOIN LATERAL (
        SELECT max(day) AS day FROM cost_use_day WHERE tenant_id = spent.tenant_id
    ) AS kept
    WHERE kept.day IS NULL OR kept.day < spent.day ORDER BY tenant_id LIMIT $3"""  # noqa: S608 - names are constants
_FORGET: Final = "DELETE FROM cost_use_day WHERE day < $1"


class UseStore:
    """A `KeptUses`, of the role that sees all tenants."""

    def __init__(self, maintenance: AsyncEngine) -> None:
        self._engine = maintenance

    async def behind(self, *, start: datetime, end: datetime) -> list[tuple[TenantId, datetime | None]]:
        """See `KeptUses.behind`."""
        async with driver_scope(self._engine, None, read_only=True) as scope:
            rows = await scope.driver.fetch(_BEHIND, start, end, _MOST_TENANTS)
        return [(TenantId(row["tenant_id"]), row["day"]) for row in rows]

    async def keep(self, tenant: TenantId, day: datetime) -> int:
        """See `KeptUses.keep`."""
        async with driver_scope(self._engine, None) as scope:
            done = await scope.driver.execute(_KEEP, tenant, day, day + timedelta(days=1))
            await scope.commit()
        return int(done.rpartition(" ")[2])

    async def forget(self, before: datetime) -> None:
        """See `KeptUses.forget`."""
        async with driver_scope(self._engine, None) as scope:
            await scope.driver.execute(_FORGET, before)
            await scope.commit()


async def uses_between(scope: DriverScope, tenant: TenantId, *, start: datetime, end: datetime) -> list[Use]:
    """Gives how models were used by day: from the days that are kept, and from the ledger for those after them."""
    # What is kept to here stays so, however many days are kept meanwhile.
    kept_to = await scope.driver.fetchval(_KEPT_TO, tenant)
    fresh = min(max(start, kept_to or start), end)
    rows = await scope.driver.fetch(_USES, tenant, fresh, end, start, _MOST_USES)
    grouped: dict[int, list[Record]] = {}
    for row in rows:
        grouped.setdefault(row["use"], []).append(row)
    uses: list[Use] = []
    for some in grouped.values():
        uses.append(_use(some))
        # A month of many agents takes a while to read, and others spend meanwhile.
        await asyncio.sleep(0)
    return uses


def _use(rows: Sequence[Record]) -> Use:
    first = rows[0]
    return use_of(
        kind=CostKind(first["kind"]),
        provider=first["provider"],
        model=first["model"],
        agent=first["agent_name"],
        days=[
            UsedDay(
                day=row["day"].astimezone(UTC).date(),
                calls=row["calls"],
                usage=usage_of([row[name] for name in _TOKENS]),
                cost=NanoUsd(row["cost_nano_usd"]),
                warm_calls=row["warm_calls"],
                shapes=tuple(map(CallShape._make, row["shapes"])),
            )
            for row in rows
        ],
    )
