"""What the registry keeps as JSON, and back. What has a column of its own is left out of it."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import wraps
from typing import Any, Final, TypeVar

import msgspec
from sqlalchemy import RowMapping

from services.inference.domain.deployment import DeploymentVersion, Task, VersionState
from services.inference.domain.errors import ModelUnreadable
from services.inference.domain.registered import RegisteredDeployment, RegisteredVersion
from services.inference.domain.rollout.rollout import Rollout, RolloutKind, RolloutState, VersionName
from services.inference.domain.route import Route
from services.inference.usecases.registry_ports import RunningRollout
from services.meshkit.core.ids import from_uuid

Read = TypeVar("Read")
Noun = TypeVar("Noun", DeploymentVersion, Route, Rollout)
_VERSION_COLUMNS: Final = ("name", "task", "deployment_id", "version", "state", "in_default_chain")
_ROUTE_COLUMNS: Final = ("name", "revision")
_ROLLOUT_COLUMNS: Final = (
    "id",
    "route",
    "step",
    "share_permille",
    "state",
    "revision",
    "started",
    "step_began",
    "decided",
    "reason",
    "decided_by",
)


def version_spec(version: DeploymentVersion) -> dict[str, Any]:
    """Writes a version."""
    return _spec(version, _VERSION_COLUMNS)


def route_spec(route: Route) -> dict[str, Any]:
    """Writes a route."""
    return _spec(route, _ROUTE_COLUMNS)


def rollout_spec(rollout: Rollout) -> dict[str, Any]:
    """Writes a rollout as it was asked for."""
    return _spec(rollout, _ROLLOUT_COLUMNS)


def _known_as(column: str) -> Callable[[Callable[[RowMapping], Read]], Callable[[RowMapping], Read]]:
    """Has a row that another release wrote, and this one cannot read, known by the name that stands in a column."""

    def named(read: Callable[[RowMapping], Read]) -> Callable[[RowMapping], Read]:
        @wraps(read)
        def reading(row: RowMapping) -> Read:
            try:
                return read(row)
            except (msgspec.ValidationError, ValueError, TypeError) as cause:
                raise ModelUnreadable(row[column]) from cause

        return reading

    return named


@_known_as("name")
def version_of(row: RowMapping) -> RegisteredVersion:
    """Reads a version and its deployment's name and task. Raises: ModelUnreadable."""
    version = _read(
        row["spec"],
        DeploymentVersion,
        name=row["name"],
        task=Task(row["task"]),
        deployment_id=from_uuid("dep", row["deployment_id"]),
        version=row["version"],
        state=VersionState(row["state"]),
        in_default_chain=False,
    )
    return RegisteredVersion(version=version, failures=tuple(row["failures"]), created=row["version_time"])


@_known_as("name")
def _task_of(row: RowMapping) -> Task:
    return Task(row["task"])


def deployment_of(row: RowMapping, versions: tuple[RegisteredVersion, ...]) -> RegisteredDeployment:
    """Reads what a deployment is beside its versions. Raises: ModelUnreadable."""
    return RegisteredDeployment(
        id=from_uuid("dep", row["deployment_id"]),
        name=row["name"],
        task=_task_of(row),
        versions=versions,
        created=row["created_time"],
        retired=row["retired_time"],
    )


@_known_as("name")
def route_of(row: RowMapping) -> Route:
    """Reads a route. Raises: ModelUnreadable."""
    return _read(row["spec"], Route, name=row["name"], revision=row["revision"])


@_known_as("route")
def rollout_of(row: RowMapping) -> Rollout:
    """Reads a rollout. Raises: ModelUnreadable, of its route."""
    return _read(row["spec"], Rollout, **_columns_of(row))


def _columns_of(row: RowMapping) -> dict[str, Any]:
    """Gives what of a rollout has a column of its own."""
    return {
        "id": from_uuid("rollout", row["rollout_id"]),
        "route": row["route"],
        "step": row["step"],
        "share_permille": row["share_permille"],
        "state": RolloutState(row["state"]),
        "revision": row["revision"],
        "started": row["started_time"],
        "step_began": row["step_time"],
        "decided": row["decided_time"],
        "reason": row["reason"] or "",
        "decided_by": row["decided_by"] or "",
    }


def rollout_as_far_as_read(row: RowMapping) -> Rollout:
    """Reads a rollout that another release wrote: what has a column, and of the rest what names its sides."""
    sides = {name: VersionName(deployment="", version=0) for name in ("stable", "canary")}
    for name in sides:
        with suppress(msgspec.ValidationError, AttributeError):
            sides[name] = msgspec.convert(row["spec"].get(name), VersionName)
    return Rollout(**sides, kind=RolloutKind.UNKNOWN, steps_permille=(), **_columns_of(row))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Side:
    deployment: str


def running_of(row: RowMapping) -> RunningRollout:
    """Reads what a rollout stands in the way of, as far as that can be read."""
    readable = True
    try:
        rollout_of(row)
    except ModelUnreadable:
        readable = False
    named: set[str] = set()
    for side in ("stable", "canary"):
        # Not by `Rollout`: what another release writes beside it must not hide who is asked.
        with suppress(msgspec.ValidationError, AttributeError):
            named.add(msgspec.convert(row["spec"].get(side), _Side).deployment)
    return RunningRollout(
        id=from_uuid("rollout", row["rollout_id"]), route=row["route"], deployments=frozenset(named), readable=readable
    )


def _spec(noun: DeploymentVersion | Route | Rollout, columns: tuple[str, ...]) -> dict[str, Any]:
    written: dict[str, Any] = msgspec.to_builtins(noun)
    return {name: value for name, value in written.items() if name not in columns}


def _read(spec: dict[str, Any], kind: type[Noun], **columns: Any) -> Noun:
    return msgspec.convert({**spec, **columns}, kind)
