"""Callers who put up with nothing: what is not answered at the first try, or not in time, they write down."""

import asyncio
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar
from uuid import uuid4

import aiohttp

from comitia.orchestrator.v1 import session_pb2
from comitia_sdk.aio import AsyncClient
from comitia_sdk.errors import ComitiaError
from services.orchestrator.programs.view import TERMINAL_STATES
from tests.faults.workload import AGENTS, ROUNDS, Lane
from tests.support.mesh import RunningMesh

_SESSION_SECONDS: Final = 60.0
_DOOR_SECONDS: Final = 20.0

Result = TypeVar("Result")


@dataclass
class Callers:
    """Some who start sessions and follow them, and some who ask a model as clients of OpenAI do."""

    mesh: RunningMesh
    client: AsyncClient
    #: Between two looks at a session, and two questions.
    pause_seconds: float = 0.1
    #: Sessions that have ended.
    ended: list[session_pb2.Session] = field(default_factory=list[session_pb2.Session])
    #: Requests that were answered, and what the others met.
    answered: int = 0
    failed: list[str] = field(default_factory=list[str])

    def lanes(self, *, sessions: int = 3, doors: int = 2) -> Sequence[Lane]:
        """Gives callers of each kind to keep going."""
        return (*[self._follow_sessions] * sessions, *[self._ask_models] * doors)

    async def _follow_sessions(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await self._one_session()

    async def _one_session(self) -> None:
        topic = f"Where do rivers argue? {uuid4()}"
        session = await self._noted("start", self.client.sessions.start(topic, agents=AGENTS, max_rounds=ROUNDS))
        end = time.monotonic() + _SESSION_SECONDS
        while session is not None and session.state not in TERMINAL_STATES:
            if time.monotonic() > end:
                self.failed.append(f"session {session.session_id} does not end: {session.state}")
                return
            await asyncio.sleep(self.pause_seconds)
            session = await self._noted("get", self.client.sessions.get(session.session_id)) or session
        if session is not None:
            self.ended.append(session)

    async def _ask_models(self, stop: asyncio.Event) -> None:
        headers = {"authorization": f"Bearer {self.mesh.admin_key}"}
        timeout = aiohttp.ClientTimeout(total=_DOOR_SECONDS)
        async with aiohttp.ClientSession(self.mesh.url, headers=headers, timeout=timeout) as http:
            while not stop.is_set():
                await self._ask_once(http)
                await asyncio.sleep(self.pause_seconds)

    async def _ask_once(self, http: aiohttp.ClientSession) -> None:
        asked = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": f"Which sea? {uuid4()}"}]}
        try:
            async with http.post("/v1/chat/completions", json=asked) as answer:
                if answer.status == 200 and (await answer.json())["choices"]:
                    self.answered += 1
                else:
                    self.failed.append(f"door: {answer.status} {(await answer.text())[:300]}")
        except (aiohttp.ClientError, TimeoutError) as error:
            self.failed.append(f"door: {error!r}")

    async def _noted(self, what: str, call: Awaitable[Result]) -> Result | None:
        try:
            result = await call
        except ComitiaError as error:
            self.failed.append(f"{what}: {error!r} {error.metadata}")
            return None
        self.answered += 1
        return result
