"""`comitia tenant`: customers whose data, money and rules stand apart, and what each may use."""

import re
import sys
import time
from typing import TYPE_CHECKING, Annotated, Final

import typer

from comitia_sdk.cli.connect import client
from comitia_sdk.cli.failure import EXIT_USAGE, CommandFailed
from comitia_sdk.cli.output import Form, FormOption, as_json, dollars, moment, show_json, show_one, show_rows

if TYPE_CHECKING:
    from collections.abc import Iterable

    from comitia.common.v1.tenant_data_pb2 import ErasureStep
    from comitia.gateway.v1.tenant_pb2 import Tenant
    from comitia.gateway.v1.tenant_service_pb2 import GetErasureResponse
    from comitia_sdk import Client

app = typer.Typer(no_args_is_help=True, help="Tenants, for operators of the installation, and the rules of your own.")
policy = typer.Typer(no_args_is_help=True, help="The rules that your own tenant sets itself.")
app.add_typer(policy, name="policy")

_BYTES: Final = re.compile(r"(\d{1,15})(B|KB|MB|GB|TB)?", re.IGNORECASE)
_UNITS: Final = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_LOOK_SECONDS: Final = 1.0

_TenantArgument = Annotated[
    str, typer.Argument(metavar="TENANT", help="Name or id (`tenant_…`); see `comitia tenant list`.")
]


def _size(text: str) -> int:
    """Reads a size such as `500MB`."""
    match = _BYTES.fullmatch(text)
    if match is None:
        raise typer.BadParameter("must be a number of bytes, such as 500MB or 2GB")
    return int(match[1]) * _UNITS[(match[2] or "B").lower()]


def _dollars(text: str) -> int:
    """Reads an amount in dollars as nano-USD."""
    from comitia_sdk.money import nano_usd

    try:
        return nano_usd(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


@app.command("create")
def create_tenant(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Unique; lower-case letters, digits and `-`.")],
    region: Annotated[
        str, typer.Option(metavar="REGION", help="Region that its content must stay in, such as eu. Default: any.")
    ] = "",
    output: FormOption = Form.TABLE,
) -> None:
    """Makes a tenant and its first admin key, which is shown once.

    Example:  comitia tenant create acme

    Example:  comitia tenant create acme --region eu
    """
    with client() as mesh:
        made = mesh.tenants.create(name, residency_region=region)
    if output is Form.JSON:
        show_json(as_json(made))
        return
    lines = [
        ("tenant", made.tenant.tenant_id),
        ("name", made.tenant.name),
        ("admin key (shown once)", made.admin_api_key),
    ]
    show_one(output, made.tenant, lines)
    typer.echo(f"whoever has this key as COMITIA_API_KEY administers {made.tenant.name}", err=True)


@app.command("list")
def list_tenants(output: FormOption = Form.TABLE) -> None:
    """Lists the tenants of the installation.

    Example:  comitia tenant list
    """
    with client() as mesh:
        found = list(mesh.tenants.list())
    rows = [(one.tenant_id, one.name, _state(one), one.residency_region, moment(one.create_time)) for one in found]
    show_rows(output, found, ("tenant", "name", "state", "region", "made"), rows, empty="no tenants")


@app.command("show")
def show_tenant(
    tenant: Annotated[str, typer.Argument(metavar="[TENANT]", help="Name or id. Default: your own.")] = "",
    output: FormOption = Form.TABLE,
) -> None:
    """Shows a tenant: its state, what it may use, and its rules.

    Example:  comitia tenant show

    Example:  comitia tenant show acme
    """
    with client() as mesh:
        found = _found(mesh, tenant) if tenant else mesh.tenants.own()
    show_one(output, found, _lines(found))


@app.command("set-quota")
def set_quota(
    tenant: _TenantArgument,
    agents: Annotated[int | None, typer.Option(min=0, metavar="N", help="Agents, all versions counted.")] = None,
    workflows: Annotated[int | None, typer.Option(min=0, metavar="N", help="Workflows, all versions counted.")] = None,
    runs: Annotated[int | None, typer.Option(min=0, metavar="N", help="Runs in progress at once.")] = None,
    storage: Annotated[
        int | None, typer.Option(parser=_size, metavar="SIZE", help="Bytes of memories, such as 500MB.")
    ] = None,
    cost: Annotated[
        int | None, typer.Option(parser=_dollars, metavar="USD", help="Limit of the tenant's budget, dollars.")
    ] = None,
    rate_factor: Annotated[
        float | None, typer.Option(min=0, metavar="FACTOR", help="Factor on every rate limit, such as 2.")
    ] = None,
    output: FormOption = Form.TABLE,
) -> None:
    """Limits what a tenant may use; what is not named stays, and 0 takes a limit away.

    Example:  comitia tenant set-quota acme --agents 20 --runs 5 --storage 2GB --cost 100

    Example:  comitia tenant set-quota acme --runs 0
    """
    asked: dict[str, int | float | None] = {
        "max_agents": agents,
        "max_workflows": workflows,
        "max_concurrent_runs": runs,
        "max_storage_bytes": storage,
        "max_cost_nano_usd": cost,
        "rate_factor": rate_factor,
    }
    quotas = {name: value for name, value in asked.items() if value is not None}
    if not quotas:
        raise CommandFailed(
            "name at least one quota, such as --runs 5; see `comitia tenant set-quota --help`", code=EXIT_USAGE
        )
    with client() as mesh:
        before = _found(mesh, tenant)
        changed = mesh.tenants.set_quotas(before.tenant_id, quotas, etag=before.etag)
    show_one(output, changed, _lines(changed))


@app.command("set-region")
def set_region(
    tenant: _TenantArgument,
    region: Annotated[str, typer.Argument(metavar="[REGION]", help="Such as eu. Without it: any.")] = "",
    output: FormOption = Form.TABLE,
) -> None:
    """Says in which region a tenant's content must stay: no model of another region is asked.

    Example:  comitia tenant set-region acme eu
    """
    with client() as mesh:
        before = _found(mesh, tenant)
        changed = mesh.tenants.set_region(before.tenant_id, region, etag=before.etag)
    show_one(output, changed, _lines(changed))


@app.command("suspend")
def suspend_tenant(
    tenant: _TenantArgument,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for the audit trail.")] = "",
    output: FormOption = Form.TABLE,
) -> None:
    """Has every call of a tenant refused within 5 seconds. Its runs wait, and nothing is lost.

    Example:  comitia tenant suspend acme --reason "invoice 17 is unpaid"
    """
    with client() as mesh:
        changed = mesh.tenants.suspend(_found(mesh, tenant).tenant_id, reason=reason)
    show_one(output, changed, _lines(changed))


@app.command("resume")
def resume_tenant(tenant: _TenantArgument, output: FormOption = Form.TABLE) -> None:
    """Lets a suspended tenant work again; its runs go on.

    Example:  comitia tenant resume acme
    """
    with client() as mesh:
        changed = mesh.tenants.resume(_found(mesh, tenant).tenant_id)
    show_one(output, changed, _lines(changed))


@app.command("delete")
def delete_tenant(
    tenant: _TenantArgument,
    plan: Annotated[bool, typer.Option("--plan", help="Only say what would happen.")] = False,
    confirm: Annotated[
        str, typer.Option(metavar="NAME", help="Name of the tenant, typed again. Asked for without it.")
    ] = "",
    wait: Annotated[bool, typer.Option("--wait", help="Return when all is erased.")] = False,
    output: FormOption = Form.TABLE,
) -> None:
    """Erases a tenant from all services. There is no way back; ledger and audit stay, without content.

    Example:  comitia tenant delete acme --plan

    Example:  comitia tenant delete acme --confirm acme --wait
    """
    with client() as mesh:
        found = _found(mesh, tenant)
        if plan:
            _show_steps(output, mesh.tenants.plan_deletion(found.tenant_id).plan)
            return
        done = mesh.tenants.delete(found.tenant_id, confirm_name=_confirmed(found.name, confirm))
        if not wait:
            show_one(output, done.tenant, _lines(done.tenant))
            typer.echo(f"follow it with `comitia tenant erasure {found.name}`", err=True)
            return
        while not (erasure := mesh.tenants.erasure(found.tenant_id)).HasField("end_time"):
            time.sleep(_LOOK_SECONDS)
    _show_erasure(output, erasure)


@app.command("erasure")
def show_erasure(tenant: _TenantArgument, output: FormOption = Form.TABLE) -> None:
    """Says how far the erasure of a deleted tenant is.

    Example:  comitia tenant erasure acme
    """
    from comitia.gateway.v1.tenant_pb2 import TENANT_STATE_DELETED, TENANT_STATE_DELETING

    with client() as mesh:
        found = _found(mesh, tenant)
        if found.state not in (TENANT_STATE_DELETING, TENANT_STATE_DELETED):
            raise CommandFailed(
                f"{found.name} is not being erased; `comitia tenant delete {found.name} --plan` says what that would do"
            )
        erasure = mesh.tenants.erasure(found.tenant_id)
    _show_erasure(output, erasure)


@policy.command("show")
def show_policy(output: FormOption = Form.TABLE) -> None:
    """Shows the rules of your own tenant.

    Example:  comitia tenant policy show
    """
    with client() as mesh:
        own = mesh.tenants.own()
    show_one(output, own.security_policy, _rules(own))


@policy.command("set")
def set_policy(
    tool: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Tool that may be called; repeat for several.")
    ] = None,
    no_tools: Annotated[bool, typer.Option("--no-tools", help="No tool may be called at all.")] = False,
    host: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST", help="Host that tools may reach, such as *.example.com; repeat for several."),
    ] = None,
    network: Annotated[
        list[str] | None,
        typer.Option(metavar="CIDR", help="Network that callers must be in, such as 10.0.0.0/8; repeat for several."),
    ] = None,
    audit_level: Annotated[
        str, typer.Option(metavar="LEVEL", help="mutations, or refusals to audit refused reads too.")
    ] = "mutations",
    archive_after: Annotated[
        int,
        typer.Option(
            min=0,
            max=36_500,
            metavar="DAYS",
            help="Days after its end at which a run is archived. 0: as the operator says.",
        ),
    ] = 0,
    delete_runs_after: Annotated[
        int,
        typer.Option(
            min=0, max=36_500, metavar="DAYS", help="Days after its end at which a run is deleted for good. 0: never."
        ),
    ] = 0,
    output: FormOption = Form.TABLE,
) -> None:
    """Replaces the rules of your own tenant: what is not named is allowed, and kept, from now on.

    Example:  comitia tenant policy set --tool calculator --tool http_get --host api.example.com

    Example:  comitia tenant policy set --network 10.0.0.0/8 --audit-level refusals

    Example:  comitia tenant policy set --archive-after 30 --delete-runs-after 365

    Example:  comitia tenant policy set
    """
    with client() as mesh:
        own = mesh.tenants.set_security_policy(
            allowed_tools=tool or (),
            tools_forbidden=no_tools,
            allowed_hosts=host or (),
            allowed_networks=network or (),
            audit_level=audit_level,
            archive_after_days=archive_after,
            delete_runs_after_days=delete_runs_after,
            etag=mesh.tenants.own().etag,
        )
    show_one(output, own.security_policy, _rules(own))


def _found(mesh: "Client", tenant: str) -> "Tenant":
    """Finds a tenant by id or name."""
    if tenant.startswith("tenant_"):
        return mesh.tenants.get(tenant)
    for one in mesh.tenants.list():
        if one.name == tenant:
            return one
    raise CommandFailed(f"there is no tenant {tenant!r}; `comitia tenant list` names them")


def _confirmed(name: str, confirm: str) -> str:
    """Gives the name of a tenant that is to be erased, typed again. Raises: CommandFailed: it is another one."""
    if not confirm and not sys.stdin.isatty():
        raise CommandFailed(
            f"nobody is here to be asked; add --confirm {name} if {name} shall be erased", code=EXIT_USAGE
        )
    typed = confirm or str(
        typer.prompt(f"This erases {name} for good. Type its name", default="", show_default=False, err=True)
    )
    if typed != name:
        raise CommandFailed(f"{typed!r} is not the name of the tenant, {name}; nothing is erased", code=EXIT_USAGE)
    return typed


def _state(tenant: "Tenant") -> str:
    from comitia.gateway.v1.tenant_pb2 import TenantState
    from comitia_sdk.enums import short_name

    return short_name(TenantState, tenant.state)


def _lines(tenant: "Tenant") -> list[tuple[str, str]]:
    quotas = tenant.quotas
    return [
        ("tenant", tenant.tenant_id),
        ("name", tenant.name),
        ("state", _state(tenant)),
        ("region", tenant.residency_region or "any"),
        ("made", moment(tenant.create_time)),
        ("agents", _limit(quotas.max_agents)),
        ("workflows", _limit(quotas.max_workflows)),
        ("runs at once", _limit(quotas.max_concurrent_runs)),
        ("storage", _limit(quotas.max_storage_bytes, " bytes")),
        ("cost", f"at most {dollars(quotas.max_cost_nano_usd)}" if quotas.max_cost_nano_usd else "no limit"),
        ("rate factor", f"{quotas.rate_factor:g}"),
        *_rules(tenant),
    ]


def _rules(tenant: "Tenant") -> list[tuple[str, str]]:
    from comitia.gateway.v1.tenant_pb2 import AuditLevel
    from comitia_sdk.enums import short_name

    rules = tenant.security_policy
    return [
        ("tools", "none" if rules.tools_forbidden else ", ".join(rules.allowed_tools) or "all"),
        ("hosts", ", ".join(rules.allowed_hosts) or "every public one"),
        ("networks", ", ".join(rules.allowed_networks) or "all"),
        ("audit level", short_name(AuditLevel, rules.audit_level)),
        ("runs archived", _after(rules.archive_after_days) or "as the installation does it"),
        ("runs deleted", _after(rules.delete_runs_after_days) or "never"),
    ]


def _after(days: int) -> str:
    return f"{days:,} day{'' if days == 1 else 's'} after their end" if days else ""


def _limit(most: int, unit: str = "") -> str:
    return f"at most {most:,}{unit}" if most else "no limit"


def _show_erasure(output: Form, erasure: "GetErasureResponse") -> None:
    if output is Form.JSON:
        show_json(as_json(erasure))
        return
    _show_steps(output, erasure.steps)
    ended = moment(erasure.end_time) if erasure.HasField("end_time") else ""
    typer.echo(f"erased at {ended}" if ended else f"still to do: {', '.join(erasure.pending_services)}")


def _show_steps(output: Form, steps: "Iterable[ErasureStep]") -> None:
    from comitia.common.v1.tenant_data_pb2 import ErasureAction
    from comitia_sdk.enums import short_name

    listed = list(steps)
    rows = [
        (step.service, step.store, short_name(ErasureAction, step.action), str(step.count), step.reason)
        for step in listed
    ]
    show_rows(output, listed, ("service", "store", "what", "rows", "why"), rows, empty="nothing is stored")
