"""Who may call which RPC. The table is generated from the annotations in the protos; here it is applied."""

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from services.meshkit.core.access import BoundToProject
from services.meshkit.core.errors import Internal, PermissionDenied, Unauthenticated
from services.meshkit.core.identity import Caller, Principal, Role, TenantId
from services.meshkit.core.permissions import ROLE_PERMISSIONS, permissions_of
from services.meshkit.grpc.client_address import UNKNOWN, ClientAddresses, Connection, is_within
from services.meshkit.grpc.identity import (
    AUTHORIZATION,
    WORKLOAD,
    TokenMissing,
    TokenVerifier,
    VerifiedToken,
    WorkloadRefused,
    WorkloadVerifier,
)
from services.meshkit.grpc.signed_token import TokenMalformed
from services.meshkit.grpc.tls import certified_name

if TYPE_CHECKING:
    from services.meshkit.grpc.limits import Limits

#: Longest duration of an RPC whose annotation names none, seconds.
DEFAULT_MAX_SECONDS: Final = 30

#: What anyone may call, and what needs no annotation: health and reflection.
EXEMPT_SERVICES: Final = (
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
)


class Guard(Protocol):
    """What one RPC asks of its caller; `comitia/common/v1/guard.proto` explains the fields."""

    @property
    def permission(self) -> str: ...
    @property
    def max_seconds(self) -> int: ...
    @property
    def open(self) -> bool: ...
    @property
    def audit(self) -> bool: ...
    @property
    def audit_read(self) -> bool: ...
    @property
    def peers(self) -> frozenset[str]: ...
    @property
    def per_tenant_per_second(self) -> int: ...
    @property
    def per_subject_per_second(self) -> int: ...
    @property
    def per_address_per_second(self) -> int: ...
    @property
    def per_tenant_in_progress(self) -> int: ...
    @property
    def of_project(self) -> bool: ...


class GuardMissing(Internal):
    """The RPC has no guard annotation, so it is refused. Our bug: annotate it and run `make gen`."""

    reason = "GUARD_MISSING"


class PermissionMissing(PermissionDenied):
    """None of the caller's roles grants what the RPC asks for, or the token is narrowed to less."""

    reason = "PERMISSION_MISSING"

    def __init__(self, permission: str, *, narrowed: bool = False) -> None:
        missing = "but your API key is narrowed to others; use another key" if narrowed else _granted_by(permission)
        super().__init__(f"this needs the permission {permission!r}, {missing}", permission=permission)


def _granted_by(permission: str) -> str:
    """Says which roles grant a permission, and who gives them."""
    roles = [role for role, granted in ROLE_PERMISSIONS.items() if permission in granted]
    if roles == [Role.OPERATOR]:
        return "which only operators of the installation have"
    names = " or ".join(role.value for role in roles)
    return f"which the role {names} grants; ask an administrator of your tenant for it"


class PeerNotAllowed(PermissionDenied):
    """The RPC is internal, and the caller is none of the services that may call it."""

    reason = "PEER_NOT_ALLOWED"

    def __init__(self) -> None:
        super().__init__("this call is open to certain services of the mesh only")


class NetworkNotAllowed(PermissionDenied):
    """The tenant may be used from certain networks only, and the call came from another one."""

    reason = "NETWORK_NOT_ALLOWED"

    def __init__(self, address: str) -> None:
        super().__init__(
            f"the security policy of your tenant does not allow calls from {address}; an administrator can change it",
            address=address,
        )


class Standing(Protocol):
    """What became of callers since their tokens were issued: who was revoked, which tenants may no longer work."""

    def check(self, verified: VerifiedToken) -> None:
        """Raises: TokenRevoked, TenantSuspended."""
        ...

    def audits_refused_reads(self, tenant: TenantId) -> bool:
        """True when the tenant wants refused reads in its audit trail, beside refused mutations."""
        ...

    def allowed_networks(self, tenant: TenantId) -> tuple[str, ...]:
        """Gives the networks, in CIDR form, from which the tenant may be used; none for all."""
        ...

    def changed(self, listener: Callable[[TenantId | None], None]) -> AbstractContextManager[None]:
        """Has `listener` called, within the block, when something changed for a tenant; None stands for all."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """What a caller has proven."""

    principal: Principal | None = None
    peer: str | None = None
    #: What `principal` was read from.
    verified: VerifiedToken | None = None


class Admission:
    """Decides whether a call may begin.

    Args:
        standing: what became of callers since; None where nothing is known, so that a token stands for itself.
        limits: counts the calls that are let in; None counts nothing.
        addresses: finds out where calls come from; None believes an edge on this machine.
    """

    def __init__(
        self,
        guards: Mapping[str, Guard],
        *,
        tokens: TokenVerifier,
        workloads: WorkloadVerifier,
        standing: Standing | None = None,
        limits: "Limits | None" = None,
        addresses: ClientAddresses | None = None,
    ) -> None:
        self._guards = guards
        self._tokens = tokens
        self._workloads = workloads
        self.standing = standing
        self.limits = limits
        self.addresses = addresses or ClientAddresses()

    def guard(self, method: str) -> Guard:
        """Gives the guard of an RPC.

        Raises: GuardMissing.
        """
        guard = self._guards.get(method)
        if guard is None:
            raise GuardMissing(f"{method} has no guard annotation", method=method)
        return guard

    def identify(self, method: str, metadata: Iterable[tuple[str, str | bytes]], *, batch: bool = False) -> Admitted:
        """Verifies who calls. Whether they may is for `authorize` to say, once the call has been counted for them.

        Args:
            batch: True for a stream whose items name their own identities. Such a stream may come without a token
                if only certain services may open it; each item is then checked on its own.
        Raises: GuardMissing, TokenMissing, PeerNotAllowed, Unauthenticated.
        """
        guard = self.guard(method)
        token, assertion = _credentials(metadata)
        peer = None if assertion is None else self._workloads.verify(assertion)
        if guard.open or (batch and guard.peers and token is None):
            return Admitted(peer=peer)
        if token is None:
            _check_peer(peer, guard)
            raise TokenMissing("send the metadata `authorization: Bearer <token>`; `comitia token` prints a token")
        verified = self._tokens.verify(token)
        return Admitted(principal=verified.principal, peer=peer, verified=verified)

    def is_neighbour(self, metadata: Iterable[tuple[str, str | bytes]]) -> bool:
        """Says whether a service of the mesh calls, before it is asked for whom and whether it may."""
        try:
            _, assertion = _credentials(metadata)
            return assertion is not None and bool(self._workloads.verify(assertion))
        except Unauthenticated:
            return False

    def authorize(self, method: str, admitted: Admitted) -> None:
        """Decides whether a caller who was identified may do this.

        Raises: PeerNotAllowed, TokenRevoked, TenantSuspended, PermissionMissing, BoundToProject.
        """
        guard = self.guard(method)
        _check_peer(admitted.peer, guard)
        if admitted.verified is None:
            return
        self.check(admitted.verified)
        _check_caller(admitted, admitted.verified, guard)

    def permit(self, method: str, admitted: Admitted) -> None:
        """As `authorize`, for who looks with `check` each time what became of the caller since.

        Raises: PeerNotAllowed, PermissionMissing, BoundToProject.
        """
        guard = self.guard(method)
        _check_peer(admitted.peer, guard)
        if admitted.verified is not None:
            _check_caller(admitted, admitted.verified, guard)

    def check_origin(self, admitted: Admitted, connection: Connection | None) -> None:
        """Holds the place that a call, or an item of a stream, came from against the rules of its tenant.

        What another service does on behalf of a caller was checked when the caller came in; what it does for a run has
        no place. Raises: NetworkNotAllowed.
        """
        if self.standing is None or admitted.principal is None or admitted.peer is not None:
            return
        networks = self.standing.allowed_networks(admitted.principal.tenant)
        if networks:
            address = UNKNOWN if connection is None else self.addresses.of(connection)
            if not is_within(address, networks):
                raise NetworkNotAllowed(address)

    def verify(self, token: str) -> VerifiedToken:
        """Gives what a token proves, if it still does.

        Raises: TokenMalformed, TokenExpired, TokenForOthers, TokenRevoked, TenantSuspended.
        """
        verified = self.proven(token)
        self.check(verified)
        return verified

    def proven(self, token: str) -> VerifiedToken:
        """Gives what a token proves, for who looks with `check` each time whether it still does.

        Raises: TokenMalformed, TokenExpired, TokenForOthers.
        """
        return self._tokens.verify(token)

    def check(self, verified: VerifiedToken) -> None:
        """Looks again at what was verified before. Raises: TokenRevoked, TenantSuspended."""
        if self.standing is not None:
            self.standing.check(verified)


def _check_caller(admitted: Admitted, verified: VerifiedToken, guard: Guard) -> None:
    check_permission(verified.principal, guard)
    check_project(admitted, guard)


def _check_peer(peer: str | None, guard: Guard) -> None:
    if guard.peers and peer not in guard.peers:
        raise PeerNotAllowed


def check_permission(principal: Principal, guard: Guard) -> None:
    """Raises PermissionMissing unless a role of the principal grants what the RPC asks for and no scope takes it away.

    Args:
        guard: if it names peers, one of them has proven to be calling.
    """
    if guard.permission not in permissions_of(principal.roles):
        raise PermissionMissing(guard.permission)
    # Roles say what may be done for somebody at all, so they bind at every door. Scopes say what a key may ask for, so
    # they bind at the doors where a key can knock; behind them a service does what a call needs that was let in there.
    if not guard.peers and principal.scopes is not None and guard.permission not in principal.scopes:
        raise PermissionMissing(guard.permission, narrowed=True)


def check_project(admitted: Admitted, guard: Guard) -> None:
    """Raises BoundToProject for what concerns the whole tenant, asked for by somebody who is bound to one project.

    Like scopes it binds at the doors where callers knock.
    """
    if admitted.principal is None or guard.of_project or guard.peers:
        return
    bound = Caller(principal=admitted.principal, peer=admitted.peer).bound_to
    if bound is not None:
        raise BoundToProject(bound)


def check_certificate(peer: str, names: Collection[str]) -> None:
    """Raises PeerNotAllowed unless a service that signed an assertion showed its own certificate.

    An assertion is a text that could be taken along; what the handshake proves cannot.

    Args:
        names: those in the certificate of the caller.
    """
    if certified_name(peer) not in names:
        raise PeerNotAllowed


def is_exempt(method: str) -> bool:
    """True for health and reflection, the only RPCs without a guard."""
    return method.startswith(_EXEMPT_PREFIXES)


_EXEMPT_PREFIXES: Final = tuple(f"/{service}/" for service in EXEMPT_SERVICES)


def _credentials(metadata: Iterable[tuple[str, str | bytes]]) -> tuple[str | None, str | None]:
    """Reads what a caller shows. Of two, nobody can say which one was looked at on the way, so neither counts."""
    lines: list[str] = []
    assertions: list[str] = []
    for key, value in metadata:
        if key == AUTHORIZATION and isinstance(value, str):
            lines.append(value)
        elif key == WORKLOAD and isinstance(value, str):
            assertions.append(value)
    if len(lines) > 1:
        raise TokenMalformed("the call carries more than one authorization; send one")
    if len(assertions) > 1:
        raise WorkloadRefused("the call carries more than one workload assertion")
    scheme, _, token = lines[0].partition(" ") if lines else ("", "", "")
    return token.strip() if scheme.lower() == "bearer" else None, assertions[0] if assertions else None
