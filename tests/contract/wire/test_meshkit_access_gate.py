"""The gate asks the gateway over real gRPC, remembers its answers for a moment, and lets nobody pass on a guess."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from comitia.gateway.v1 import access_service_pb2 as pb
from comitia.gateway.v1.access_service_pb2_grpc import AccessServiceServicer, add_AccessServiceServicer_to_server
from comitia.guard_table import GUARDS
from services.meshkit.core.access import RelationMissing
from services.meshkit.core.errors import MeshError, Unavailable
from services.meshkit.core.identity import Caller, Role
from services.meshkit.grpc.call import caller_of
from services.meshkit.guard.access_gate import (
    LAST_KNOWN_SECONDS,
    NO_SECONDS,
    YES_SECONDS,
    GatewayAccessGate,
)
from services.meshkit.testing.fake_clock import FakeClock
from services.meshkit.testing.local_server import LocalServer, local_server


@dataclass(slots=True)
class Answers(AccessServiceServicer):
    """A gateway that grants what it is told to."""

    granted: set[tuple[str, str, str]] = field(default_factory=set[tuple[str, str, str]])
    asked: int = 0
    away: bool = False

    async def AuthorizeCaller(self, request: pb.AuthorizeCallerRequest, context: Any) -> pb.AuthorizeCallerResponse:
        self.asked += 1
        if self.away:
            raise Unavailable("postgres")
        allowed = (caller_of(context).principal.subject, request.relation, request.object) in self.granted
        return pb.AuthorizeCallerResponse(allowed=allowed, missing="" if allowed else "nobody wrote it")


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """A gate, the gateway behind it, and its clock."""

    gate: GatewayAccessGate
    answers: Answers
    clock: FakeClock
    server: LocalServer

    def caller(self, *roles: Role, subject: str = "key_anna") -> Caller:
        return Caller(principal=self.server.keys.principal(*(roles or (Role.TENANT_USER,)), subject=subject))

    async def may(self, **options: bool) -> bool:
        return await self.gate.allows(self.caller(), "editor", "project:claims", **options)


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    answers = Answers()  # pyright: ignore[reportAbstractUsage]  # tests serve the one RPC they need
    clock = FakeClock()
    registration = partial(add_AccessServiceServicer_to_server, answers)
    async with local_server(registration, guards=GUARDS, folder=tmp_path, peer="orchestrator") as server:
        yield Door(gate=GatewayAccessGate(server.channel, clock=clock), answers=answers, clock=clock, server=server)


async def test_a_refusal_says_what_is_missing(door: Door) -> None:
    with pytest.raises(RelationMissing, match="nobody wrote it") as raised:
        await door.gate.require(door.caller(), "editor", "project:claims")
    assert raised.value.metadata == {"relation": "editor", "object": "project:claims"}


async def test_a_yes_is_asked_for_again_after_five_seconds(door: Door) -> None:
    door.answers.granted.add(("key_anna", "editor", "project:claims"))
    assert await door.may()
    door.answers.granted.clear()
    door.clock.advance(seconds=YES_SECONDS - 0.1)
    assert await door.may()
    door.clock.advance(seconds=0.2)
    assert (await door.may(), door.answers.asked) == (False, 2)


async def test_a_no_is_asked_for_again_after_a_second(door: Door) -> None:
    assert not await door.may()
    door.answers.granted.add(("key_anna", "editor", "project:claims"))
    assert not await door.may()
    door.clock.advance(seconds=NO_SECONDS + 0.1)
    assert (await door.may(), door.answers.asked) == (True, 2)


async def test_what_is_remembered_is_one_callers_only(door: Door) -> None:
    door.answers.granted.add(("key_anna", "editor", "project:claims"))
    assert await door.may()
    assert not await door.gate.allows(door.caller(subject="key_ben"), "editor", "project:claims")
    assert not await door.gate.allows(door.caller(), "viewer", "project:claims")
    assert not await door.gate.allows(door.caller(), "editor", "project:other")


async def test_what_is_remembered_is_counted_on_the_metrics_page(door: Door) -> None:
    door.gate.show("test")
    await door.may()
    await door.gate.allows(door.caller(), "viewer", "project:claims")
    assert REGISTRY.get_sample_value("comitia_cache_items", {"cache": "test.access_answers"}) == 2


async def test_administrators_pass_without_a_question(door: Door) -> None:
    door.answers.away = True
    await door.gate.require(door.caller(Role.ADMIN), "editor", "project:claims")
    assert door.answers.asked == 0


async def test_without_the_gateway_only_reading_goes_on_with_the_last_yes(door: Door) -> None:
    door.answers.granted.add(("key_anna", "editor", "project:claims"))
    assert await door.may()
    door.answers.away = True
    door.clock.advance(seconds=YES_SECONDS + 1)
    with pytest.raises(MeshError) as raised:
        await door.may()
    assert raised.value.reason == "UNAVAILABLE"
    assert await door.may(last_known=True)
    door.clock.advance(seconds=LAST_KNOWN_SECONDS)
    with pytest.raises(MeshError):
        await door.may(last_known=True)


async def test_without_the_gateway_a_no_is_no_answer(door: Door) -> None:
    assert not await door.may()
    door.answers.away = True
    door.clock.advance(seconds=NO_SECONDS + 0.1)
    with pytest.raises(MeshError):
        await door.may(last_known=True)
    with pytest.raises(MeshError):
        await door.gate.allows(door.caller(subject="key_new"), "viewer", "project:claims", last_known=True)
