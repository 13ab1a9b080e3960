"""Commands of `comitia model` that look after what is registered: how it is, whether it may be asked, and its end."""

from typing import TYPE_CHECKING, Annotated

import typer

from comitia_sdk.cli.connect import client
from comitia_sdk.cli.failure import EXIT_REFUSED, CommandFailed
from comitia_sdk.cli.output import (
    DEFAULT_LIMIT,
    Form,
    FormOption,
    LimitOption,
    dollars,
    moment,
    newest,
    show_lines,
    show_one,
    show_rows,
)

if TYPE_CHECKING:
    from comitia.inference.v1.generation_pb2 import CallPolicy
    from comitia.inference.v1.model_pb2 import ModelDeployment, ModelRoute, ModelVersion
    from comitia_sdk.sync import Client

ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="Name of a model of your own, such as `acme/writer`.")]

#: Between the name of a model and the number of its version.
AT = "@"


def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A model or a route.")], output: FormOption = Form.TABLE
) -> None:
    """Shows a model with its versions and what their checks found, or a route with those that it asks.

    Example:  comitia model show acme/writer
    """
    with client() as mesh:
        found = _known(mesh).get(name)
        if found is None:
            route = mesh.models.route(name)
            show_one(output, route, route_lines(route))
            return
        whole = mesh.models.get(found.deployment_id) if found.deployment_id else found
    if output is Form.JSON:
        show_one(output, whole, ())
        return
    show_lines(_model_lines(whole))
    for version in whole.versions:
        show_lines(_version_lines(version), indent="  ")


def routes(output: FormOption = Form.TABLE) -> None:
    """Lists the names to ask for that you made, and whom they ask.

    Example:  comitia model routes
    """
    with client() as mesh:
        found = list(mesh.models.routes())
    rows = [(one.name, _mode(one), _asked(one)) for one in found]
    show_rows(output, found, ("route", "mode", "asks"), rows, empty="no route; `comitia model route` makes one")


def rollouts(
    route: Annotated[str, typer.Argument(metavar="[ROUTE]", help="Of this route only.")] = "",
    limit: LimitOption = DEFAULT_LIMIT,
    output: FormOption = Form.TABLE,
) -> None:
    """Lists rollouts, the newest first.

    Example:  comitia model rollouts writer
    """
    from comitia.inference.v1.model_pb2 import RolloutState
    from comitia_sdk.enums import short_name

    with client() as mesh:
        found = newest(mesh.models.rollouts(route=route), limit)
    rows = [
        (
            one.rollout_id,
            one.route,
            f"{one.canary.deployment}{AT}{one.canary.version}",
            short_name(RolloutState, one.state),
            f"{one.share_permille / 10:g} %",
            moment(one.start_time),
            one.reason,
        )
        for one in found
    ]
    columns = ("rollout", "route", "canary", "state", "share", "began", "because")
    show_rows(output, found, columns, rows, empty="no rollouts; `comitia model canary` begins one")


def health(output: FormOption = Form.TABLE) -> None:
    """Shows how the replica that answers finds each model: whether it is left alone, why, and how long answers took.

    Example:  comitia model health
    """
    from comitia.inference.v1.model_pb2 import BreakerState
    from comitia_sdk.enums import short_name

    with client() as mesh:
        found = mesh.models.health()
    rows = [
        (
            f"{one.deployment}{AT}{one.version}" if one.version else one.deployment,
            short_name(BreakerState, one.breaker),
            _seconds(one.p50_us),
            _seconds(one.p95_us),
            one.last_failure,
            moment(one.last_failure_time),
            one.probe_failure or ("answered" if one.HasField("probe_time") else ""),
        )
        for one in found
    ]
    columns = ("model", "breaker", "half within", "19 of 20", "failed last", "at", "looked at")
    show_rows(output, found, columns, rows, empty="no model; `comitia model list`")


def check(name: ModelName, output: FormOption = Form.TABLE) -> None:
    """Asks the newest version of a model, or `MODEL@VERSION`, one small question again, and says what was found.

    Example:  comitia model check acme/writer@2
    """
    with client() as mesh:
        plain, number = version_of(mesh, name)
        found = mesh.models.check(_own(mesh, plain).deployment_id, number)
    show_checked(output, plain, found)


def retire(name: ModelName, output: FormOption = Form.TABLE) -> None:
    """Has a model asked no more; calls in flight end as they would. Its name is free again.

    Example:  comitia model retire acme/writer
    """
    with client() as mesh:
        found = mesh.models.retire(_own(mesh, name).deployment_id)
    show_one(output, found, [("model", found.name), ("retired", moment(found.retire_time))])


def delete_route(
    name: Annotated[str, typer.Argument(metavar="ROUTE", help="Name that callers ask for.")],
) -> None:
    """Deletes a route; its models stay.

    Example:  comitia model delete-route writer
    """
    with client() as mesh:
        mesh.models.delete_route(name)
    typer.echo(f"{name} is deleted")


def show_checked(output: Form, name: str, version: "ModelVersion", *, deployment_id: str = "") -> None:
    """Writes what the check of a version found. Exits with 1 unless it may be asked."""
    from comitia.inference.v1.model_pb2 import MODEL_VERSION_STATE_READY

    lines = [("model", f"{name}{AT}{version.version}"), ("state", _state(version)), ("id", deployment_id)]
    show_one(output, version, [*lines, *(("found", failure) for failure in version.check_failures)])
    if version.state != MODEL_VERSION_STATE_READY:
        raise typer.Exit(EXIT_REFUSED)


def route_lines(route: "ModelRoute") -> list[tuple[str, str]]:
    """Says of a route whom it asks, and how it chooses."""
    from comitia.inference.v1.model_pb2 import ModelTier
    from comitia_sdk.enums import short_name

    lines = [("route", route.name), ("asks", _asked(route)), ("mode", _mode(route))]
    if route.HasField("sla"):
        lines.append(("within", f"{route.sla.ToMilliseconds() / 1000:g} s"))
    if route.min_tier:
        lines.append(("from tier", short_name(ModelTier, route.min_tier)))
    if route.HasField("shadow"):
        lines.append(("shadow", f"{route.shadow.deployment}, {route.shadow.permille / 10:g} %"))
    if route.HasField("reward"):
        reward = route.reward
        weights = f"quality {reward.quality_permille}, cost {reward.cost_permille}, latency {reward.latency_permille}"
        lines.append(("goes by", f"{weights}; dear at {dollars(reward.dear_nano_usd)}"))
    if route.HasField("policy"):
        lines.append(("calls that say nothing", _policy(route.policy)))
    if route.HasField("cache"):
        near = f"; to questions from {route.cache.semantic_threshold:g} near" if route.cache.semantic_threshold else ""
        lines.append(("answers kept", f"{route.cache.exact_ttl.ToMilliseconds() / 1000:g} s{near}"))
    return lines


def _policy(policy: "CallPolicy") -> str:
    from comitia.inference.v1 import generation_pb2 as pb
    from comitia_sdk.enums import short_name

    said = [
        ("mid_stream", policy.mid_stream and short_name(pb.MidStream, policy.mid_stream)),
        ("on_disconnect", policy.on_disconnect and short_name(pb.OnDisconnect, policy.on_disconnect)),
        ("work_class", policy.work_class and short_name(pb.WorkClass, policy.work_class)),
        ("cache", policy.cache and short_name(pb.CacheUse, policy.cache)),
        ("hedge_after", policy.HasField("hedge_after") and f"{policy.hedge_after.ToMilliseconds() / 1000:g}"),
    ]
    return ", ".join(f"{name}={value}" for name, value in said if value)


def _asked(route: "ModelRoute") -> str:
    shares = any(member.weight_permille for member in route.members)
    return ", ".join(f"{one.deployment}={one.weight_permille}" if shares else one.deployment for one in route.members)


def _mode(route: "ModelRoute") -> str:
    from comitia.inference.v1.model_pb2 import RouteMode
    from comitia_sdk.enums import short_name

    return short_name(RouteMode, route.mode) if route.mode else ""


def version_of(mesh: "Client", named: str) -> tuple[str, int]:
    """Reads `name@version`; without a version, the newest of a registered model, or 0 for one of the settings."""
    name, at, number = named.rpartition(AT)
    if at and number.isdecimal():
        return name, int(number)
    found = _known(mesh).get(named)
    return named, found.versions[0].version if found is not None and found.versions else 0


def _known(mesh: "Client") -> "dict[str, ModelDeployment]":
    return {one.name: one for one in mesh.models.list()}


def _own(mesh: "Client", name: str) -> "ModelDeployment":
    found = _known(mesh).get(name)
    if found is None:
        raise CommandFailed(f"no model is called {name!r}; `comitia model list` names them")
    if not found.deployment_id:
        raise CommandFailed(f"{name!r} is one of the settings of the installation, which no command changes")
    return found


def _model_lines(model: "ModelDeployment") -> list[tuple[str, str]]:
    from comitia.inference.v1.model_pb2 import ModelTask
    from comitia_sdk.enums import short_name

    return [
        ("model", model.name),
        ("id", model.deployment_id or "of the settings"),
        ("does", short_name(ModelTask, model.task)),
        ("price", "known" if model.priced else "unknown"),
        ("asked", "" if model.versions else f"{model.model} by {model.adapter}"),
        ("region", model.region),
        ("retired", moment(model.retire_time)),
    ]


def _version_lines(version: "ModelVersion") -> list[tuple[str, str]]:
    from comitia.inference.v1.model_pb2 import ModelTier
    from comitia_sdk.enums import short_name

    return [
        (f"{AT}{version.version}", _state(version)),
        ("asked", f"{version.model} by {version.adapter}"),
        ("at", version.base_url),
        ("region", version.region),
        ("tier", short_name(ModelTier, version.tier) if version.tier else ""),
        ("made", moment(version.create_time)),
        *(("found", failure) for failure in version.check_failures),
    ]


def _state(version: "ModelVersion") -> str:
    from comitia.inference.v1.model_pb2 import ModelVersionState
    from comitia_sdk.enums import short_name

    return short_name(ModelVersionState, version.state)


def _seconds(microseconds: int) -> str:
    return f"{microseconds / 1_000_000:.2f} s" if microseconds else ""
