"""Facts of a chain of steps as protobuf, its decider, and two ways to pack and seal what a tick recorded of a run."""

import os
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any
from uuid import UUID

from asyncpg.pgproto.pgproto import UUID as DriverUUID  # noqa: N811
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from google.protobuf.timestamp_pb2 import Timestamp

from comitia.orchestrator.v1.journal_pb2 import CallAnswered, CallIntended, JournalEntry, RunEnded, RunStarted
from services.meshkit.core.clock import SystemClock
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import SystemIds
from services.meshkit.crypto.kek_file import KekFile
from services.meshkit.crypto.keyring import KeyRing
from services.orchestrator.engine.journal import JournalCodec
from tests.support.data_keys import MemoryDataKeys

SALT_BYTES, NONCE_BYTES = 32, 12
GENERATE, SUCCEEDED = 2, 5
REQUEST = b"q" * 100


@dataclass(slots=True)
class Chain:
    """Where a chain stands."""

    steps: int
    intended: int = 0
    answered: int = 0


@dataclass(slots=True, eq=False)
class Run:
    """A run as the engine holds it."""

    number: int
    uuid: UUID
    #: What asyncpg encodes fastest.
    driver_uuid: DriverUUID
    tenant: int
    shard: int
    state: Chain
    began: float
    path: str = "steps/0"
    answered: int = 0
    sequence: int = 1
    #: When its last step was durable.
    step_at: float = 0.0
    #: Facts of the tick.
    entries: list[JournalEntry] = field(default_factory=list)
    changed: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """A step to take."""

    path: str
    request: bytes


@dataclass(frozen=True, slots=True)
class End:
    """The run is over."""


def decide(state: Chain, fact: JournalEntry) -> tuple[Chain, tuple[Call | End, ...]]:
    """The chain's program. Pure for those who look from outside: the state passed in is not used again."""
    match fact.WhichOneof("fact"):
        case "call_intended":
            state.intended += 1
            return state, ()
        case "call_answered":
            state.answered += 1
            if state.answered == state.steps:
                return state, (End(),)
            return state, (Call(f"steps/{state.answered}", fact.call_answered.response[-100:]),)
        case "run_started":
            return state, (Call("steps/0", REQUEST),)
        case _:
            return state, ()


class KeywordFacts:
    """Makes facts the way one writes them first."""

    def begin(self, seconds: int, nanos: int) -> None:
        self._time = Timestamp(seconds=seconds, nanos=nanos)

    def started(self) -> JournalEntry:
        return JournalEntry(record_time=self._time, run_started=RunStarted(program="chain", program_version=1))

    def intended(self, path: str, request: bytes) -> JournalEntry:
        digest = sha256(request).digest()
        call = CallIntended(call_index=0, kind=GENERATE, request_digest=digest, request=request)
        return JournalEntry(path=path, record_time=self._time, call_intended=call)

    def answered(self, path: str, response: bytes) -> JournalEntry:
        call = CallAnswered(call_index=0, kind=GENERATE, response=response)
        return JournalEntry(path=path, record_time=self._time, call_answered=call)

    def ended(self) -> JournalEntry:
        return JournalEntry(record_time=self._time, run_ended=RunEnded(state=SUCCEEDED))


class AttributeFacts(KeywordFacts):
    """Makes the frequent facts attribute by attribute: no message is made to be copied into another."""

    def begin(self, seconds: int, nanos: int) -> None:
        super().begin(seconds, nanos)
        self._seconds, self._nanos = seconds, nanos

    def intended(self, path: str, request: bytes) -> JournalEntry:
        entry = JournalEntry()
        entry.path = path
        time = entry.record_time
        time.seconds, time.nanos = self._seconds, self._nanos
        call = entry.call_intended
        call.kind = GENERATE
        call.request_digest = sha256(request).digest()
        call.request = request
        return entry

    def answered(self, path: str, response: bytes) -> JournalEntry:
        entry = JournalEntry()
        entry.path = path
        time = entry.record_time
        time.seconds, time.nanos = self._seconds, self._nanos
        call = entry.call_answered
        call.kind = GENERATE
        call.response = response
        return entry


class Sealer:
    """Keys for the tenants of the loop, and both ways to seal."""

    def __init__(self, tenants: list[Any]) -> None:
        clock = SystemClock()
        wrapper = KekFile({b"bench-kek"[:8]: AESGCM.generate_key(256)})
        self._keys = KeyRing(MemoryDataKeys(clock.now), wrapper, clock=clock, ids=SystemIds())
        self._tenants = [TenantId(tenant) for tenant in tenants]
        self._codec = JournalCodec(self._keys)
        self._ready: dict[int, tuple[bytes, Any, bytes]] = {}

    async def load(self) -> None:
        """Loads every tenant's key; the engine does this for the tenants of a tick before it begins."""
        await self._keys.load(*self._tenants)

    async def house(self, run: Run) -> tuple[bytes, bytes]:
        """As the orchestrator does it today."""
        return await self._codec.seal(self._tenants[run.tenant], run.uuid.hex, run.sequence, run.entries)

    async def check(self, run: Run) -> None:
        """What is packed by hand must open as the orchestrator opens its rows, and verify."""
        self.begin_tick(1)
        sealed, commitments = self.packed_with_ready_key(run, draw_salts(len(run.entries)), 0)
        row = await self._codec.open(self._tenants[run.tenant], run.uuid.hex, run.sequence, sealed)
        salted = zip(row.salts, row.entries, strict=True)
        proofs = b"".join([sha256(salt + entry.SerializeToString()).digest() for salt, entry in salted])
        if list(row.entries) != run.entries or proofs != commitments:
            raise SystemExit("a row that was packed by hand does not open as it should")

    def packed(self, run: Run, salts: bytes, at: int) -> tuple[bytes, bytes]:
        """Packs by hand, and lets the key ring seal without waiting.

        Args:
            salts: of the tick; this row's begin at `at`.
        """
        payload, commitments = pack(run.entries, salts, at)
        aad = f"{run.uuid.hex}/{run.sequence}".encode()
        return self._keys.seal_sync(self._tenants[run.tenant], payload, aad=aad), commitments

    def begin_tick(self, rows: int) -> None:
        """Draws the nonces of a tick. In the ring this would be a `sealer(tenant)` per tick."""
        self._nonces, self._at = os.urandom(NONCE_BYTES * rows), 0
        self._ready.clear()

    def packed_with_ready_key(self, run: Run, salts: bytes, at: int) -> tuple[bytes, bytes]:
        """The same bytes, the key looked up once for each tenant of a tick."""
        payload, commitments = pack(run.entries, salts, at)
        nonce = self._nonces[self._at : self._at + NONCE_BYTES]
        self._at += NONCE_BYTES
        key_head, encrypt, bound = self._ready.get(run.tenant) or self._look_up(run.tenant)
        aad = f"{run.uuid.hex}/{run.sequence}".encode()
        return key_head + nonce + encrypt(nonce, payload, bound + aad), commitments

    def _look_up(self, number: int) -> tuple[bytes, Any, bytes]:
        tenant = self._tenants[number]
        key = self._keys._sealing_key(tenant)
        ready = self._ready[number] = key.head, key.cipher.encrypt, key.head + tenant.bytes
        return ready


def pack(entries: list[JournalEntry], salts: bytes, at: int) -> tuple[bytes, bytes]:
    """Encodes each entry once: for its commitment, and as a field of `JournalRow`, byte for byte the same."""
    parts: list[bytes] = []
    tail: list[bytes] = []
    commitments = b""
    for entry in entries:
        encoded = entry.SerializeToString()
        salt = salts[at : at + SALT_BYTES]
        at += SALT_BYTES
        commitments += sha256(salt + encoded).digest()
        size = len(encoded)
        parts += (ENTRY_HEADS[size] if size < SHORT else head(1, size), encoded)
        tail += (SALT_HEAD, salt)
    return b"".join(parts + tail), commitments


def draw_salts(entries: int) -> bytes:
    """One draw for all entries of a tick."""
    return os.urandom(SALT_BYTES * entries)


def head(number: int, size: int) -> bytes:
    """Encodes tag and length of a field of bytes."""
    encoded = bytearray((number << 3 | 2,))
    while size > 127:
        encoded.append(size & 127 | 128)
        size >>= 7
    encoded.append(size)
    return bytes(encoded)


SHORT = 2_048
ENTRY_HEADS = [head(1, size) for size in range(SHORT)]
SALT_HEAD = head(2, SALT_BYTES)
