"""`comitia token`, `comitia key`, `comitia tenant`: who may call."""

from typing import TYPE_CHECKING, Annotated

import typer

from comitia_sdk.cli.connect import client
from comitia_sdk.cli.output import Form, FormOption, as_json, moment, show_json, show_one, show_rows

if TYPE_CHECKING:
    from comitia.gateway.v1.identity_pb2 import ApiKey

keys = typer.Typer(no_args_is_help=True, help="API keys of your tenant.")
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


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name for people.")],
    role: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROLE",
            help="admin, operator, auditor or tenant_user; repeat for several. Default: tenant_user.",
            show_default=False,
        ),
    ] = None,
    output: FormOption = Form.TABLE,
) -> None:
    """Makes an API key. Its secret is shown once.

    Example:  comitia key create ci --role tenant_user
    """
    with client() as mesh:
        made = mesh.identity.create_key(name, roles=role or ["tenant_user"])
    if output is Form.JSON:
        show_json(as_json(made))
        return
    show_one(output, made.api_key, [*_lines(made.api_key), ("secret (shown once)", made.secret)])


@keys.command("list")
def list_keys(output: FormOption = Form.TABLE) -> None:
    """Lists the tenant's API keys, newest first.

    Example:  comitia key list
    """
    with client() as mesh:
        found = list(mesh.identity.list_keys())
    rows = [tuple(value for _, value in _lines(key)) for key in found]
    show_rows(output, found, ("key", "name", "roles", "made", "expires", "revoked"), rows, empty="no keys")


@keys.command("revoke")
def revoke_key(
    api_key_id: Annotated[str, typer.Argument(metavar="KEY", help="Id of the key, `key_…`; see `comitia key list`.")],
    output: FormOption = Form.TABLE,
) -> None:
    """Revokes an API key. Tokens that were given for it live out their 15 minutes.

    Example:  comitia key revoke key_01j…
    """
    with client() as mesh:
        key = mesh.identity.revoke_key(api_key_id)
    show_one(output, key, _lines(key))


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


def _lines(key: "ApiKey") -> list[tuple[str, str]]:
    from comitia.gateway.v1.identity_pb2 import Role
    from comitia_sdk.enums import short_name

    return [
        ("key", key.api_key_id),
        ("name", key.display_name),
        ("roles", ", ".join(short_name(Role, role) for role in key.roles)),
        ("made", moment(key.create_time)),
        ("expires", moment(key.expire_time)),
        ("revoked", moment(key.revoke_time)),
    ]
