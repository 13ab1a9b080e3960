"""Opens the doors."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

from services.inference.clients.key_exchange import GatewayKeyExchange
from services.inference.transport.doors.body_room import BodyRoom
from services.inference.transport.doors.chat_door import ChatDoor
from services.inference.transport.doors.door import Door
from services.inference.transport.doors.embeddings_door import EmbeddingsDoor
from services.inference.transport.doors.keys import DoorKeys, HoldBack
from services.inference.transport.doors.listener import listening
from services.inference.transport.doors.messages_door import CountTokensDoor, MessagesDoor
from services.inference.transport.doors.models_door import ModelsDoor
from services.inference.transport.doors.responses_door import ResponsesDoor
from services.inference.transport.doors.routes import Doors
from services.inference.usecases.registry import MemoryRegistry
from services.inference.wiring.core import Core
from services.inference.wiring.ground import Ground
from services.meshkit.core.rate import burst_of
from services.meshkit.grpc.call import Drain
from services.meshkit.grpc.client_address import block_of
from services.meshkit.grpc.limits import Allowance, RateLimited
from services.meshkit.grpc.server import Beside
from services.meshkit.guard.rate import RateGate

#: Keys that nobody here knows and that one address may have looked up, per second; twice as many at once.
_LOOKUPS_PER_SECOND: Final = 10.0


def doors(on: Ground, *, core: Core, registry: MemoryRegistry) -> tuple[Beside, ...]:
    """Gives what serves the doors beside gRPC; nothing when they are to be served nowhere."""
    settings, guard, clock, ids = on.settings, on.guard, on.clock, on.ids
    listen = settings.doors_listen
    if listen is None:
        return ()
    models = ModelsDoor(registry)
    served: dict[tuple[str, str], Door] = {
        ("POST", "/v1/chat/completions"): ChatDoor(core.asking, default_output=settings.doors_output_tokens),
        ("POST", "/v1/responses"): ResponsesDoor(core.asking, default_output=settings.doors_output_tokens),
        ("POST", "/v1/embeddings"): EmbeddingsDoor(core.embed, ids=ids),
        ("POST", "/v1/messages"): MessagesDoor(core.asking),
        ("POST", "/v1/messages/count_tokens"): CountTokensDoor(registry),
        ("GET", "/v1/models"): models,
        ("GET", "/v1/models/"): models,
    }

    @asynccontextmanager
    async def opened(drain: Drain) -> AsyncGenerator[None]:
        keys = DoorKeys(
            known=guard.feed,
            exchange=GatewayKeyExchange(on.gateway),
            verify=guard.admission.verify,
            hold_back=_hold_back(guard.rates),
            clock=clock,
        )
        room = BodyRoom(settings.doors_body_bytes)
        handle = Doors(served, admission=guard.admission, keys=keys, room=room, drain=drain, clock=clock, ids=ids)
        with guard.feed.changed(keys.forget):
            async with listening(handle, listen=listen, tls=on.identity.tls, drain_seconds=settings.drain_seconds):
                yield

    return (opened,)


def _hold_back(rates: RateGate) -> HoldBack:
    """Counts unknown keys by the address that they come from."""

    async def hold_back(address: str) -> None:
        key = ("door_keys", block_of(address))
        seconds = await rates.take(key, per_second=_LOOKUPS_PER_SECOND, burst=burst_of(_LOOKUPS_PER_SECOND))
        if seconds > 0:
            limit = round(_LOOKUPS_PER_SECOND)
            sentence = f"your address sent too many unknown API keys ({limit} a second are looked up); check yours"
            allowance = Allowance(limit, 0, 1)
            raise RateLimited(
                whose="address", method="ExchangeApiKey", allowance=allowance, seconds=seconds, sentence=sentence
            )

    return hold_back
