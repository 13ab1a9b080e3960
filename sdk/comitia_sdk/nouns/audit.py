"""Who did what, with proof."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from datetime import datetime
from typing import BinaryIO
from uuid import uuid4

from comitia.gateway.v1 import audit_service_pb2 as pb
from comitia.gateway.v1 import audit_service_pb2_grpc
from comitia_sdk.audit import merkle
from comitia_sdk.audit.canonical import NotCanonical, read_entry, timestamp_text
from comitia_sdk.audit.head import AuditKeys, Head
from comitia_sdk.audit.lines import entry_line, head_line, key_set_line
from comitia_sdk.connection import Connection
from comitia_sdk.errors import InternalFailure


class AsyncAudit:
    """The audit trail of the tenant."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._audit = audit_service_pb2_grpc.AuditServiceStub(connection.channel)

    async def list(
        self,
        *,
        actor: str = "",
        action: str = "",
        target: str = "",
        after_time: datetime | None = None,
        page_size: int = 0,
    ) -> AsyncGenerator[pb.ChainedAuditEntry]:
        """Gives entries, newest first; archived ones are only in exports.

        Args:
            after_time: aware; only entries from then on.
        """
        request = pb.ListAuditEntriesRequest(page_size=page_size, actor=actor, action=action, target=target)
        if after_time is not None:
            request.after_time.FromDatetime(after_time)
        async for page in self._connection.pages(self._audit.ListAuditEntries, request):
            for entry in page.entries:
                yield entry

    async def status(self) -> pb.GetAuditStatusResponse:
        """Says whether the trail is whole."""
        return await self._connection.call(self._audit.GetAuditStatus, pb.GetAuditStatusRequest())

    async def acknowledge(
        self, service: str, stream: int, position: int, *, reason: str
    ) -> pb.GetAuditStatusResponse.Gap:
        """Says that somebody has looked into a gap: it is no alarm any more, and stays in the status. For operators.

        Args:
            reason: what was found out.
        Raises: NotFound, FailedPrecondition: somebody did so before.
        """
        request = pb.AcknowledgeAuditGapRequest(
            service=service, stream=stream, position=position, reason=reason, request_id=str(uuid4())
        )
        return (await self._connection.call(self._audit.AcknowledgeAuditGap, request)).gap

    async def export(self, *, from_index: int = 0) -> AsyncGenerator[pb.ExportAuditResponse]:
        """Gives entries, then heads, then the key set."""
        request = pb.ExportAuditRequest(from_index=from_index)
        async with aclosing(self._connection.stream(self._audit.ExportAudit, request)) as lines:
            async for line in lines:
                yield line

    async def save(self, file: BinaryIO, *, told: Callable[[int], None] | None = None) -> int:
        """Writes the whole trail as a file that `comitia audit verify` reads.

        Args:
            told: called now and then with the number of lines so far.
        Returns: how many entries were written.
        Raises: InternalFailure: the mesh sent an export that ends early.
        """
        entries = written = 0
        line = pb.ExportAuditResponse()
        async with aclosing(self.export()) as lines:
            async for line in lines:
                file.write(export_line(line))
                entries += line.HasField("entry")
                written += 1
                if told is not None and not written % 1000:
                    told(written)
        if line.WhichOneof("line") != "key_set":
            raise InternalFailure("the export ended early; run it again", reason="EXPORT_CUT_SHORT")
        return entries

    async def prove(self, index: int, *, size: int = 0) -> pb.ProveAuditEntryResponse:
        """Fetches the proof that an entry is in the tree of a signed head. `check_proof` checks it.

        Raises: NotFound, FailedPrecondition: it is not signed yet; wait a minute.
        """
        request = pb.ProveAuditEntryRequest(index=index, size=size)
        return await self._connection.call(self._audit.ProveAuditEntry, request)

    async def prove_consistency(self, first_size: int, second_size: int = 0) -> pb.ProveAuditConsistencyResponse:
        """Fetches the proof that the tree of one signed head is the beginning of another's. Raises: NotFound."""
        request = pb.ProveAuditConsistencyRequest(first_size=first_size, second_size=second_size)
        return await self._connection.call(self._audit.ProveAuditConsistency, request)


def check_proof(proof: pb.ProveAuditEntryResponse, *, index: int, keys: AuditKeys | None = None) -> str | None:
    """Gives None when what a proof says is consistent, else a sentence that says what is wrong. Needs no mesh.

    Args:
        index: the entry that was asked for.
        keys: public keys that the caller trusts; None leaves the signature of the head unchecked, so that the answer
            says only that the mesh does not contradict itself.
    """
    entry, head = proof.entry, read_head(proof.head)
    if entry.index != index:
        return f"it is about entry {entry.index}, not {index}"
    try:
        shown = read_entry(entry.canonical)
    except NotCanonical as error:
        return f"what was hashed is no entry: {error}"
    if shown != entry.entry:
        return "the entry that is shown is not the one that was hashed"
    leaf = merkle.leaf_hash(entry.canonical)
    if leaf != entry.leaf_hash:
        return "the hash of the entry is wrong"
    if shown.tenant_id != head.tenant_id:
        return f"the head is one of {head.tenant_id!r}"
    if not merkle.verify_inclusion(leaf, index, head.size, proof.path, head.root_hash):
        return f"the path does not lead from entry {index} to the root of the head over {head.size} entries"
    if index == head.size - 1 and entry.chain_hash != head.chain_hash:
        return "the chain hash of the entry is not the one in the head that ends with it"
    return None if keys is None else keys.verify(head)


def check_consistency(
    proof: pb.ProveAuditConsistencyResponse, *, kept: Head, keys: AuditKeys | None = None
) -> str | None:
    """Gives None when the tree of a kept head is the beginning of the later one, else a sentence. Needs no mesh.

    Args:
        kept: the earlier head, as the caller has kept it; what the mesh says of it has to agree.
        keys: as for `check_proof`; they must have signed both heads.
    """
    first, second = read_head(proof.first), read_head(proof.second)
    if second.tenant_id != kept.tenant_id:
        return f"the later head is one of {second.tenant_id!r}, the kept one of {kept.tenant_id!r}"
    # The same tree may have been signed twice, at two times.
    if (first.tenant_id, first.size, first.root_hash, first.chain_hash) != (
        kept.tenant_id,
        kept.size,
        kept.root_hash,
        kept.chain_hash,
    ):
        return f"the mesh shows another head over {kept.size} entries than the one that was kept"
    if not merkle.verify_consistency(kept.size, second.size, proof.path, kept.root_hash, second.root_hash):
        return f"the tree over {kept.size} entries is not the beginning of the one over {second.size}"
    if second.size == kept.size and second.chain_hash != kept.chain_hash:
        return f"the chain of the later head over {kept.size} entries is another"
    return None if keys is None else keys.verify(kept) or keys.verify(second)


def read_head(head: pb.AuditHead) -> Head:
    """Reads a head from its message."""
    return Head(
        tenant_id=head.tenant_id,
        size=head.size,
        root_hash=head.root_hash,
        chain_hash=head.chain_hash,
        sign_time=timestamp_text(head.sign_time.seconds, head.sign_time.nanos),
        key_id=head.key_id,
        signature=head.signature,
    )


def export_line(line: pb.ExportAuditResponse) -> bytes:
    """Writes a message of an export as a line of its file. Raises: HeadMalformed."""
    match line.WhichOneof("line"):
        case "entry":
            entry = line.entry
            return entry_line(entry.index, entry.canonical, entry.leaf_hash, entry.chain_hash)
        case "head":
            return head_line(read_head(line.head))
        case _:
            keys = AuditKeys.read(line.key_set)
            return key_set_line(keys, set(keys.keys))
