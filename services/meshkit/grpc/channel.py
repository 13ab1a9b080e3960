"""Channels to neighbours: client-side balancing, retries by service config, identity, trace and deadline passed on.

A stub over such a channel is used as always; the tenant's identity is named at every call:
`await stub.Reserve(request, metadata=call_metadata(principal))`.
"""

import json
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final

import grpc
import grpc.aio

from services.meshkit.core.identity import Principal
from services.meshkit.grpc.call import seconds_left
from services.meshkit.grpc.decoding import MAX_MESSAGE_BYTES
from services.meshkit.grpc.identity import AUTHORIZATION, WORKLOAD, WorkloadSigner
from services.meshkit.grpc.rotating_channel import Options, rotating_channel
from services.meshkit.grpc.tls import MeshTls
from services.meshkit.telemetry.scope import current_scope

Metadata = tuple[tuple[str, str], ...]

#: Says to the east-west listener that a call may be sent again after UNAVAILABLE.
REPEATABLE: Final = "x-comitia-repeatable"

#: Time kept back from the caller's deadline, so that our own answer still gets through, seconds.
_MARGIN_SECONDS: Final = 0.01


def call_metadata(principal: Principal) -> Metadata:
    """Gives the metadata with which a call speaks for `principal`."""
    return ((AUTHORIZATION, f"Bearer {principal.token.reveal()}"),)


@asynccontextmanager
async def channel(
    target: str,
    *,
    identity: WorkloadSigner,
    idempotent: Iterable[str] = (),
    timeout_seconds: float = 30.0,
    service: str = "",
) -> AsyncGenerator[grpc.aio.Channel]:
    """Opens a channel to the replicas of a neighbour and closes it after the block.

    Args:
        target: `host:port`, of which all addresses of the host get calls in turn, or several with IP addresses and
            commas between.
        identity: signs the assertion that every call carries. If it has a certificate too, both ends show theirs.
        idempotent: full names of unary RPCs (`/comitia.cost.v1.BudgetService/Reserve`) that may be sent again after
            UNAVAILABLE, within a budget.
        timeout_seconds: of a unary call that names none and is made in background work; a call made while answering an
            RPC never waits longer than its own caller does.
        service: who has to answer at this very address, if the settings do not say so of `target`.
    """
    handed_on = bool(identity.tls and identity.tls.way_to(target, service=service).handed_to)
    # The east-west listener asks replicas for their health, and sends calls again to others of them.
    config = _ONE_CONNECTION if handed_on else _service_config(idempotent)
    options = [*_OPTIONS, ("grpc.service_config", json.dumps(config))]
    repeatable = frozenset(idempotent) if handed_on else frozenset[str]()
    async with bare_channel(target, tls=identity.tls, options=options, service=service) as raw:
        yield _MeshChannel(raw, identity=identity, timeout_seconds=timeout_seconds, repeatable=repeatable)


@asynccontextmanager
async def bare_channel(
    target: str, *, tls: MeshTls | None, options: Options, service: str = ""
) -> AsyncGenerator[grpc.aio.Channel]:
    """Opens a channel whose calls carry nothing of ours, for probes.

    Args:
        tls: shown to the neighbour, who has to show its own; None speaks plain text.
        service: as `channel`.
    """
    # gRPC would take a proxy from the environment, and tokens and prompts would leave the mesh through it. Without a
    # pool of its own a channel takes over what another has to the same address: a connection that shows the old
    # certificate, or the pause after nobody answered there.
    options = [*options, ("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
    if tls is not None:
        way = tls.way_to(target, service=service)
        async with rotating_channel(way, tls, address=_address(way.target), options=options) as opened:
            yield opened
    else:
        async with grpc.aio.insecure_channel(_address(target), options=list(options)) as opened:
            yield opened


def _address(target: str) -> str:
    """Says in gRPC's words where calls go."""
    if "," not in target:
        return f"dns:///{target}"
    return f"{'ipv6' if target.startswith('[') else 'ipv4'}:{target}"


_OPTIONS: Final[list[tuple[str, Any]]] = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.dns_min_time_between_resolutions_ms", 5_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    # Not a pause: the least time that one attempt may take, handshakes included. Short of it gRPC hangs up on a
    # neighbour that is busy and calls anew, which makes it no less busy. A server that is back is found by the two
    # others: an attempt that is refused ends at once. Measured: as quickly with 1500 as with 100.
    ("grpc.min_reconnect_backoff_ms", 1_500),
    # A replica that is back gets calls soon, so that the next one may be replaced.
    ("grpc.max_reconnect_backoff_ms", 1_000),
]


#: Through the east-west listener: its replicas in turn, and nothing tried a second time in two places.
_ONE_CONNECTION: Final[dict[str, Any]] = {"loadBalancingConfig": [{"round_robin": {}}]}


def _service_config(idempotent: Iterable[str]) -> dict[str, Any]:
    methods = [
        {"service": service, "method": method}
        for service, _, method in (name.strip("/").partition("/") for name in idempotent)
    ]
    config: dict[str, Any] = {
        "loadBalancingConfig": [{"round_robin": {}}],
        # A replica that drains says NOT_SERVING and gets no new call.
        "healthCheckConfig": {"serviceName": ""},
        # The budget: each failure costs a token, each success gives back a tenth; below half there are no retries.
        "retryThrottling": {"maxTokens": 20, "tokenRatio": 0.1},
    }
    if methods:
        retry = {
            "maxAttempts": 4,
            "initialBackoff": "0.05s",
            "maxBackoff": "1s",
            "backoffMultiplier": 2,
            "retryableStatusCodes": ["UNAVAILABLE"],
        }
        config["methodConfig"] = [{"name": methods, "retryPolicy": retry}]
    return config


class _MeshChannel(grpc.aio.Channel):
    """A channel whose calls carry our assertion, the trace and a deadline.

    It wraps the calls itself: an interceptor of grpc.aio costs a task per call.
    """

    def __init__(
        self,
        raw: grpc.aio.Channel,
        *,
        identity: WorkloadSigner,
        timeout_seconds: float,
        repeatable: frozenset[str],
    ) -> None:
        self._raw: Any = raw
        self._identity = identity
        self._timeout_seconds = timeout_seconds
        self._repeatable = repeatable

    def unary_unary(self, method: str, *arguments: Any, **options: Any) -> Any:
        said = ((REPEATABLE, "1"),) if method in self._repeatable else ()
        return self._wrap(self._raw.unary_unary(method, *arguments, **options), unary=True, said=said)

    def unary_stream(self, method: str, *arguments: Any, **options: Any) -> Any:
        return self._wrap(self._raw.unary_stream(method, *arguments, **options), unary=False)

    def stream_unary(self, method: str, *arguments: Any, **options: Any) -> Any:
        return self._wrap(self._raw.stream_unary(method, *arguments, **options), unary=True)

    def stream_stream(self, method: str, *arguments: Any, **options: Any) -> Any:
        return self._wrap(self._raw.stream_stream(method, *arguments, **options), unary=False)

    async def close(self, grace: float | None = None) -> None:
        await self._raw.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._raw.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._raw.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._raw.channel_ready()

    async def __aenter__(self) -> "_MeshChannel":
        return self

    async def __aexit__(self, *_unused: object) -> None:
        await self.close()

    def _wrap(self, call: Any, *, unary: bool, said: Metadata = ()) -> Any:
        default = self._timeout_seconds if unary else None

        def start(
            request: Any = None,
            /,
            *,
            timeout: float | None = None,
            metadata: Iterable[tuple[str, str | bytes]] = (),
            **options: Any,
        ) -> Any:
            return call(
                *(() if request is None else (request,)),
                timeout=_shrunk(timeout if timeout is not None else default),
                metadata=(*metadata, *said, *self._own_metadata()),
                **options,
            )

        return start

    def _own_metadata(self) -> Metadata:
        own = (WORKLOAD, self._identity.assertion())
        scope = current_scope()
        if not scope.traceparent and not scope.correlation_id:
            return (own,)
        passed_on = (("traceparent", scope.traceparent), ("x-request-id", scope.correlation_id))
        return (own, *(pair for pair in passed_on if pair[1]))


def _shrunk(timeout: float | None) -> float | None:
    left = seconds_left()
    if left is None:
        return timeout
    left = max(0.0, left - _MARGIN_SECONDS)
    return left if timeout is None else min(left, timeout)
