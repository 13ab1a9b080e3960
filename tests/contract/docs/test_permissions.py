"""The page of permissions says what the code does, and people have seen it."""

from services.meshkit.core.identity import Role
from services.meshkit.core.permissions import ASKED_IN_SOME_CASES, ROLE_PERMISSIONS
from tests.support import permission_page
from tests.support.public_rpcs import INTERNAL, PUBLIC


def test_the_page_is_current() -> None:
    written = permission_page.PAGE.read_text(encoding="utf-8")
    assert written == permission_page.render(), "run `make gen`, and review who may do what now"


def test_the_page_reads_as_it_was_written() -> None:
    granted = permission_page.granted(permission_page.render())
    asked = {rpc.guard.permission for rpc in (*PUBLIC, *INTERNAL) if not rpc.guard.open}
    assert granted.keys() == asked | ASKED_IN_SOME_CASES.keys()
    for permission, roles in granted.items():
        assert roles == {role for role, held in ROLE_PERMISSIONS.items() if permission in held}


def test_nothing_is_granted_that_no_rpc_asks_for() -> None:
    asked = {rpc.guard.permission for rpc in (*PUBLIC, *INTERNAL)}
    held = frozenset[str]().union(*ROLE_PERMISSIONS.values())
    assert held <= asked | ASKED_IN_SOME_CASES.keys()


def test_the_roles_that_see_no_tenants_work_see_none() -> None:
    """What an operator may do concerns the installation; what an auditor may do changes nothing."""
    assert {name for name in ROLE_PERMISSIONS[Role.OPERATOR] if not name.endswith(".read")} == {
        "audit.acknowledge",
        "audit.export",
        "prices.import",
        "signing_keys.write",
        "tenants.write",
    }
    assert all(name.endswith((".read", ".export")) for name in ROLE_PERMISSIONS[Role.AUDITOR])
    by_permission = {rpc.guard.permission: rpc for rpc in PUBLIC if rpc.guard.audit}
    assert not [name for name in ROLE_PERMISSIONS[Role.AUDITOR] if name in by_permission]
