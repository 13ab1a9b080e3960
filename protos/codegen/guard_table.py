"""Checks the guard of every RPC and writes the table that servers refuse and limit calls by."""

import math
import re
from collections.abc import Sequence

from protos.codegen.contract import OWN, Contract, GuardOption, Rpc
from protos.codegen.errors import CodegenError
from services.meshkit.core.rate import DEFAULT_PER_SECOND

#: How the comment of a public RPC says that it has no REST form, and why.
NO_REST = re.compile(r"\b(REST|HTTP)\b")

HEAD = '''"""Who may call which RPC, how often and for how long. Made by `make gen` from the guards; do not edit."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Guard:
    """What one RPC asks of its caller; `comitia/common/v1/guard.proto` explains the fields."""

    #: Permission that one of the caller's roles must grant. Empty only when the RPC is open.
    permission: str
    #: Calls a tenant may start per second in the whole mesh. 0 means the default of 100.
    per_tenant_per_second: int
    #: Longest duration of a call. 0 means the default of 30.
    max_seconds: int
    #: True when the call needs no identity.
    open: bool
    #: Services that may call; empty for a public RPC.
    peers: frozenset[str]
    #: True for a control-plane mutation, which leaves an audit row.
    audit: bool = False
    #: Calls one subject may start per second; four fifths of the tenant's unless the annotation says otherwise. 0 where
    #: there is no subject, or no limit beside the tenant's.
    per_subject_per_second: int = 0
    #: Calls one client address may start per second. 0 means no limit beside the edge's.
    per_address_per_second: int = 0
    #: Calls a tenant may have in progress at one replica. 0 means no limit beside its share of the replica.
    per_tenant_in_progress: int = 0
    #: True when a caller who is bound to one project may call; False when the call concerns the whole tenant.
    of_project: bool = False
    #: True for a read that leaves an audit row.
    audit_read: bool = False


#: Guard of every RPC by its name on the wire.
GUARDS: dict[str, Guard] = {
'''

#: Fields that limit calls from outside.
LIMITS = ("per_tenant_per_second", "per_subject_per_second", "per_address_per_second", "per_tenant_in_progress")

#: Part of its tenant's limit that one caller has unless the annotation says otherwise: whoever floods leaves the others
#: of the tenant the rest.
CALLER_PART = 0.8


def check(contract: Contract) -> None:
    """Raises CodegenError naming every RPC whose annotations are missing or contradict each other."""
    services = {file.package.removeprefix(OWN).split(".")[0] for file in contract.own_files()}
    problems = [problem for rpc in contract.rpcs() for problem in _problems(rpc, services)]
    if problems:
        raise CodegenError("\n".join(problems))


def render(rpcs: Sequence[Rpc]) -> str:
    """The guard table as a Python module."""
    rows = [f'    "{rpc.path}": {_literal(rpc.guard)},\n' for rpc in rpcs if rpc.guard is not None]
    return HEAD + "".join(rows) + "}\n"


def _literal(guard: GuardOption) -> str:
    peers = ", ".join(f'"{peer}"' for peer in sorted(guard.peers))
    fields = [f'"{guard.permission}"', guard.per_tenant_per_second, guard.max_seconds, guard.open]
    fields.append(f"frozenset({f'{{{peers}}}' if peers else ''})")
    rest = {
        "audit": guard.audit,
        "per_subject_per_second": _per_subject(guard),
        "per_address_per_second": guard.per_address_per_second,
        "per_tenant_in_progress": guard.per_tenant_in_progress,
        "of_project": guard.of_project,
        "audit_read": guard.audit_read,
    }
    fields += [f"{name}={value}" for name, value in rest.items() if value]
    return f"Guard({', '.join(map(str, fields))})"


def _per_subject(guard: GuardOption) -> int:
    """Gives the limit of one caller; 0 where nobody is counted by who they are."""
    if guard.open or guard.peers:
        return 0
    return guard.per_subject_per_second or math.ceil(CALLER_PART * _per_tenant(guard))


def _per_tenant(guard: GuardOption) -> int:
    return guard.per_tenant_per_second or DEFAULT_PER_SECOND


def _problems(rpc: Rpc, services: set[str]) -> list[str]:
    where = f"{rpc.file.name}: {rpc.service.name}.{rpc.method.name}"
    guard = rpc.guard
    if guard is None:
        return [f"{where} has no guard. Add `option (comitia.common.v1.guard) = {{permission: …}};` to it."]
    found: list[str] = []
    if guard.open == bool(guard.permission):
        found.append(f"{where} needs either a permission or `open: true` in its guard, and not both.")
    unknown = sorted(guard.peers - services)
    if unknown:
        found.append(f"{where} names peers that are no service: {', '.join(unknown)}.")
    if guard.audit and guard.audit_read:
        found.append(f"{where} is a mutation (audit) and a read (audit_read). It is one of them.")
    if (guard.audit or guard.audit_read) and guard.open:
        found.append(f"{where} is audited and open: an audit row needs somebody who did it.")
    if guard.open and (guard.per_tenant_per_second or guard.per_subject_per_second):
        found.append(f"{where} is open: it knows no tenant and no subject. Limit it with per_address_per_second.")
    if guard.per_subject_per_second > _per_tenant(guard):
        found.append(f"{where} allows one caller more calls than its whole tenant has. Lower per_subject_per_second.")
    if guard.per_address_per_second and not guard.open:
        found.append(f"{where} limits addresses, which are counted for open calls only.")
    if guard.peers and any(getattr(guard, name) for name in LIMITS):
        found.append(f"{where} is internal, and calls between services are not counted. Take its limits out.")
    if guard.of_project and (guard.open or guard.peers):
        found.append(f"{where} is open or internal, so no caller's project is held against it. Take out of_project.")
    if guard.peers and rpc.http:
        found.append(f"{where} is internal (its guard names peers), so it must not have google.api.http.")
    if not guard.peers and not rpc.http and not NO_REST.search(rpc.comment):
        found.append(
            f"{where} is public without google.api.http. Add it, or say in its comment why it has no REST form."
        )
    return found
