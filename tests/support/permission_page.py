"""`docs/permissions.md`: who may do what, as a page that people review. `make gen` writes it, the tests go by it.

python -m tests.support.permission_page [--check]
"""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.meshkit.core.identity import Role
from services.meshkit.core.permissions import ASKED_IN_SOME_CASES, ROLE_PERMISSIONS
from tests.support.public_rpcs import INTERNAL, PUBLIC, Rpc

PAGE: Final = Path(__file__).parents[2] / "docs" / "permissions.md"
ROLES: Final = (Role.ADMIN, Role.OPERATOR, Role.AUDITOR, Role.TENANT_USER)
_MAY: Final = "yes"
_INTERNAL: Final = "## What only services may call"
_INTERNAL_COLUMNS: Final = ("RPC", "peers", "permission")
_HEAD: Final = """# Permissions

Made by `make gen` from the annotations in the protos and `services/meshkit/core/permissions.py`. A change of this page
is a change of who may do what: review it as such. `tests/e2e/test_guard_matrix.py` calls every RPC as every role, at
the edge and at the service itself, and holds the answer against the first table; it calls every internal RPC as every
service for every role, and holds the answer against the last one.

A caller with several roles has the union. An API key or a token may be narrowed to some permissions (scopes), never
widened. Scopes bind at every RPC that callers reach, for the runs they start as well: a key that starts sessions whose
agents speak and use tools needs `sessions.start`, `inference.generate` and `tools.invoke`. They do not bind at internal
RPCs, which services call for what was let in; roles do.

`admin`, `auditor` and `tenant_user` are roles in a tenant; `operator` runs the installation and sees no work of
tenants. Beside roles, relations may narrow the work in a project ([decision](decisions/0006-relations.md)).
"""


def render() -> str:
    """Writes the page."""
    return "\n".join((_HEAD, *_roles(), "", *_of_project(), "", *_open(), "", *_internal(), ""))


def granted(text: str) -> dict[str, frozenset[Role]]:
    """Reads from the page which roles have each permission."""
    found: dict[str, frozenset[Role]] = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `") and len(cells) == len(ROLES) + 2 and "." in cells[0]:
            marks = zip(ROLES, cells[1:-1], strict=True)
            found[cells[0].strip("`")] = frozenset(role for role, mark in marks if mark == _MAY)
    return found


@dataclass(frozen=True, slots=True)
class Inside:
    """What the page says of an internal RPC."""

    peers: frozenset[str]
    #: What the token beside the peer's assertion must grant; empty where none is asked for.
    permission: str


def inside(text: str) -> dict[str, Inside]:
    """Reads from the page who may call each internal RPC."""
    found: dict[str, Inside] = {}
    for line in text[text.index(_INTERNAL) :].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == len(_INTERNAL_COLUMNS) and "/" in cells[0]:
            found[cells[0]] = Inside(frozenset(cells[1].split(", ")), cells[2].strip("`"))
    return found


def _roles() -> Iterator[str]:
    yield "## What each role may do"
    yield ""
    yield f"| permission | {' | '.join(f'`{role}`' for role in ROLES)} | RPCs |"
    yield f"|---|{'---|' * len(ROLES)}---|"
    rows = {permission: _names(rpcs) for permission, rpcs in _by_permission().items()}
    for permission, names in sorted((rows | ASKED_IN_SOME_CASES).items()):
        marks = [_MAY if permission in ROLE_PERMISSIONS[role] else "" for role in ROLES]
        yield f"| `{permission}` | {' | '.join(marks)} | {names} |"


def _by_permission() -> Mapping[str, list[Rpc]]:
    found: dict[str, list[Rpc]] = {}
    for rpc in (*PUBLIC, *INTERNAL):
        if not rpc.guard.open:
            found.setdefault(rpc.guard.permission, []).append(rpc)
    return found


def _names(rpcs: list[Rpc]) -> str:
    return ", ".join(
        f"{rpc.name}{' (internal)' if rpc.guard.peers else ''}" for rpc in sorted(rpcs, key=lambda r: r.name)
    )


def _of_project() -> Iterator[str]:
    yield "## What a caller may call who is bound to a project"
    yield ""
    yield "Their roles must grant it all the same, and what belongs to another project is not there for them."
    yield "Everything else concerns the whole tenant and is refused with `BOUND_TO_PROJECT`."
    yield ""
    yield "Of money they see what their project was charged and its budget (`project:NAME`), not the budgets of the"
    yield "tenant, of agents, runs and steps. Who is bound to no project sees all that the tenant spends, with the role"
    yield "`tenant_user` too: roles know no projects, and no relation narrows what is shown of money."
    yield ""
    for rpc in sorted((rpc for rpc in PUBLIC if rpc.guard.of_project), key=lambda rpc: rpc.name):
        yield f"- {rpc.name}"


def _open() -> Iterator[str]:
    yield "## What anybody may call"
    yield ""
    yield "Health and reflection (`grpc.health.v1`, `grpc.reflection.v1`), and:"
    yield ""
    for rpc in sorted((rpc for rpc in PUBLIC if rpc.guard.open), key=lambda rpc: rpc.name):
        yield f"- {rpc.name}"


def _internal() -> Iterator[str]:
    yield _INTERNAL
    yield ""
    yield "The edge has no route to these. The caller proves its name with its workload assertion, and with its"
    yield "certificate where services speak TLS. Where a permission stands beside it, the caller also needs a tenant's"
    yield "token that grants it."
    yield ""
    yield f"| {' | '.join(_INTERNAL_COLUMNS)} |"
    yield f"|{'---|' * len(_INTERNAL_COLUMNS)}"
    for rpc in sorted(INTERNAL, key=lambda rpc: rpc.name):
        permission = f"`{rpc.guard.permission}`" if rpc.guard.permission and not rpc.guard.open else ""
        yield f"| {rpc.name} | {', '.join(sorted(rpc.guard.peers))} | {permission} |"


def main(arguments: list[str]) -> int:
    """Writes the page, or only says whether it is current; gives the exit code."""
    text = render()
    current = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    if text == current:
        return 0
    if "--check" in arguments:
        sys.stderr.write("docs/permissions.md is not current. Run `make gen`, and review who may do what now.\n")
        return 1
    PAGE.write_text(text, encoding="utf-8")
    sys.stdout.write("wrote: docs/permissions.md\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
