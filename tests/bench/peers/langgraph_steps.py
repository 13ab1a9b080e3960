"""Chains of ten LangGraph nodes that do nothing, each checkpointed before the next. Run by `engine_peers`."""

# pyright: reportMissingImports=false
# In an environment of its own.

import asyncio
import json
import sys
import time
import uuid
from typing import Any, TypedDict

from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.graph import END, START, StateGraph
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

STEPS = 10


class State(TypedDict):
    count: int


async def nothing(state: State) -> State:
    return {"count": state["count"] + 1}


async def main() -> None:
    asked = json.loads(sys.stdin.read())
    options: dict[str, Any] = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
    async with AsyncConnectionPool(asked["url"], min_size=8, max_size=8, kwargs=options) as pool:
        saver = AsyncPostgresSaver(pool)
        await saver.setup()
        graph = StateGraph(State)
        names = [f"n{number}" for number in range(STEPS)]
        for before, name in zip([START, *names], names, strict=False):
            graph.add_node(name, nothing)
            graph.add_edge(before, name)
        graph.add_edge(names[-1], END)
        flow = graph.compile(checkpointer=saver)
        made, until = 0, time.perf_counter() + asked["seconds"]
        began = time.perf_counter()

        async def runs() -> None:
            nonlocal made
            while time.perf_counter() < until:
                config = {"configurable": {"thread_id": str(uuid.uuid4())}}
                await flow.ainvoke({"count": 0}, config, durability="sync")
                made += STEPS

        await asyncio.gather(*(runs() for _ in range(asked["runs"])))
        sys.stdout.write(json.dumps({"steps_per_s": made / (time.perf_counter() - began)}) + "\n")


asyncio.run(main())
