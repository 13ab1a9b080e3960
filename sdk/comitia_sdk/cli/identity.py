"""`comitia token`, `comitia whoami`, `comitia tenant`: who calls, and for whom."""

from typing import Annotated

import typer

from comitia_sdk.cli.connect import client
from comitia_sdk.cli.output import Form, FormOption, as_json, moment, show_json, show_one, show_rows

tenants = typer.Typer(no_args_is_help=True, help="Tenants, for operators of the installation.")


def token() -> None:
    """Prints an access token of 15 minutes, for grpcurl, curl and other clients.

    Example:  grpcurl -plaintext -H "authorization: Bearer $(comitia token)" 127.0.0.1:7400 list
    """
    with client() as mesh:
        typer.echo(mesh.identity.token())


def whoami(output: FormOption = Form.TABLE) -> None:
    """Says who you are to the mesh: tenant, person or key, and roles.

    Example:  comitia whoami
    """
    from comitia.gateway.v1.identity_pb2 import Role
    from comitia_sdk.enums import short_name

    with client() as mesh:
        me = mesh.identity.whoami()
        url = mesh.url
    roles = ", ".join(short_name(Role, role) for role in me.roles)
    lines = [("mesh", url), ("tenant", me.tenant_id), ("subject", me.subject), ("email", me.email), ("roles", roles)]
    show_one(output, me, [*lines, ("project", me.project)])


@tenants.command("create")
def create_tenant(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Unique; lower-case letters, digits and `-`.")],
    output: FormOption = Form.TABLE,
) -> None:
    """Makes a tenant and its first admin key, which is shown once.

    Example:  comitia tenant create acme
    """
    with client() as mesh:
        made = mesh.identity.create_tenant(name)
    if output is Form.JSON:
        show_json(as_json(made))
        return
    lines = [
        ("tenant", made.tenant.tenant_id),
        ("name", made.tenant.name),
        ("admin key (shown once)", made.admin_api_key),
    ]
    show_one(output, made.tenant, lines)


@tenants.command("list")
def list_tenants(output: FormOption = Form.TABLE) -> None:
    """Lists the tenants of the installation.

    Example:  comitia tenant list
    """
    with client() as mesh:
        found = list(mesh.identity.list_tenants())
    rows = [(one.tenant_id, one.name, moment(one.create_time)) for one in found]
    show_rows(output, found, ("tenant", "name", "made"), rows, empty="no tenants")
