"""`comitia user`, `comitia issuer`: who may sign in, and by whose word."""

from typing import TYPE_CHECKING, Annotated

import typer

from comitia_sdk.cli.connect import client
from comitia_sdk.cli.failure import CommandFailed
from comitia_sdk.cli.ids import id_of
from comitia_sdk.cli.output import Form, FormOption, moment, show_json, show_one, show_rows

if TYPE_CHECKING:
    from collections.abc import Iterable

    from comitia.gateway.v1.identity_pb2 import OidcIssuer, Role, User
    from comitia_sdk import Client

users = typer.Typer(no_args_is_help=True, help="People who may sign in to your tenant.")
issuers = typer.Typer(no_args_is_help=True, help="OpenID Connect providers whose word your tenant takes.")

_UserArgument = Annotated[
    str, typer.Argument(metavar="USER", help="Mail address, or id (`user_…`); see `comitia user list`.")
]


@users.command("invite")
def invite_user(
    email: Annotated[str, typer.Argument(metavar="EMAIL", help="Mail address that the provider has verified.")],
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
    """Permits a person to sign in. No mail is sent: tell them to run `comitia login`.

    Example:  comitia user invite ann@example.com --role auditor
    """
    from comitia_sdk.errors import AlreadyExists

    with client() as mesh:
        try:
            user = mesh.users.invite(email, roles=role or ["tenant_user"])
        except AlreadyExists as error:
            raise CommandFailed(
                f"{email} is invited already; give them other roles with `comitia user set-roles {email} ROLE`"
            ) from error
        next_step = _next_step(mesh)
    show_one(output, user, _user(user))
    if output is Form.TABLE and next_step:
        typer.echo(next_step, err=True)


@users.command("list")
def list_users(output: FormOption = Form.TABLE) -> None:
    """Lists the tenant's users, newest first, removed ones included.

    Example:  comitia user list
    """
    with client() as mesh:
        found = list(mesh.users.list())
    rows = [tuple(value for _, value in _user(user)) for user in found]
    columns = ("user", "email", "roles", "invited", "last sign-in", "removed")
    show_rows(output, found, columns, rows, empty="no users; invite one with `comitia user invite`")


@users.command("set-roles")
def set_user_roles(
    user: _UserArgument,
    role: Annotated[
        list[str],
        typer.Argument(metavar="ROLE...", help="The roles from now on: admin, operator, auditor, tenant_user."),
    ],
    output: FormOption = Form.TABLE,
) -> None:
    """Replaces the roles of a user. What they were signed in with before stops working within seconds.

    Example:  comitia user set-roles ann@example.com auditor tenant_user
    """
    with client() as mesh:
        changed = mesh.users.set_roles(_user_id(mesh, user), role)
    show_one(output, changed, _user(changed))


@users.command("remove")
def remove_user(user: _UserArgument, output: FormOption = Form.TABLE) -> None:
    """Removes a user, who is out within seconds and comes back only by a new invitation.

    Example:  comitia user remove ann@example.com
    """
    with client() as mesh:
        removed = mesh.users.remove(_user_id(mesh, user))
    show_one(output, removed, _user(removed))


@issuers.command("add")
def add_issuer(
    issuer: Annotated[str, typer.Argument(metavar="URL", help="The issuer, such as https://accounts.example.com.")],
    client_id: Annotated[str, typer.Argument(metavar="CLIENT_ID", help="Client id that you registered there.")],
    trust: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DOMAIN", help="Let everybody with a verified address of this mail domain in; repeatable."
        ),
    ] = None,
    role: Annotated[
        list[str] | None,
        typer.Option(metavar="ROLE", help="Role of people who come in by --trust; repeatable. Default: tenant_user."),
    ] = None,
    output: FormOption = Form.TABLE,
) -> None:
    """Takes the word of an OpenID Connect provider about who somebody is.

    Register a public client (native app, PKCE, no secret) there, with the redirect address http://127.0.0.1/callback
    on any port, and the device code grant if people shall sign in with --device.

    Examples:

      comitia issuer add https://accounts.example.com comitia

      comitia issuer add https://accounts.example.com comitia --trust example.com --role tenant_user
    """
    domains = trust or []
    if role and not domains:
        raise typer.BadParameter(
            "is for people who come in by --trust; name a domain with --trust, or leave the role out: "
            "who is invited has roles of their own",
            param_hint="--role",
        )
    roles = (role or ["tenant_user"]) if domains else []
    with client() as mesh:
        made = mesh.users.add_issuer(issuer, client_id, trusted_domains=domains, default_roles=roles)
    show_one(output, made, _issuer(made))


@issuers.command("list")
def list_issuers(output: FormOption = Form.TABLE) -> None:
    """Lists the tenant's providers, newest first.

    Example:  comitia issuer list
    """
    with client() as mesh:
        found = list(mesh.users.list_issuers())
    rows = [tuple(value for _, value in _issuer(one)) for one in found]
    columns = ("id", "issuer", "client id", "trusted domains", "their roles", "added")
    show_rows(output, found, columns, rows, empty="no providers; add one with `comitia issuer add`")


@issuers.command("remove")
def remove_issuer(
    oidc_issuer_id: Annotated[
        str,
        typer.Argument(
            parser=id_of("issuer", listed_by="comitia issuer list"),
            metavar="ID",
            help="`issuer_…`; see `comitia issuer list`.",
        ),
    ],
    output: FormOption = Form.TABLE,
) -> None:
    """Takes a provider's word no longer. Who came in by it stays signed in for 15 minutes at most.

    Example:  comitia issuer remove issuer_01j…
    """
    with client() as mesh:
        mesh.users.remove_issuer(oidc_issuer_id)
    if output is Form.JSON:
        show_json({})
    else:
        typer.echo(f"{oidc_issuer_id} is removed")


def _user_id(mesh: "Client", user: str) -> str:
    """Finds a user by mail address, or takes the id as it is."""
    if user.startswith("user_"):
        return user
    found = [one for one in mesh.users.list() if one.email == user.lower()]
    for one in found:
        if not one.HasField("remove_time"):
            return one.user_id
    if found:
        raise CommandFailed(f"{user} is removed; invite them again with `comitia user invite {user}`")
    raise CommandFailed(f"there is no user {user!r}; `comitia user list` names them")


def _next_step(mesh: "Client") -> str:
    """Says what is missing until an invited person can sign in; empty for callers who may not know it."""
    from comitia_sdk.errors import PermissionDenied

    try:
        if next(iter(mesh.users.list_issuers()), None) is None:
            return "nobody can sign in yet: say who vouches for people with `comitia issuer add`"
        return f"no mail is sent; tell them to run `comitia login {mesh.tenants.own().name}`"
    except PermissionDenied:
        return ""


def _user(user: "User") -> list[tuple[str, str]]:
    return [
        ("user", user.user_id),
        ("email", user.email),
        ("roles", _roles(user.roles)),
        ("invited", moment(user.create_time)),
        ("last sign-in", moment(user.last_login_time)),
        ("removed", moment(user.remove_time)),
    ]


def _issuer(issuer: "OidcIssuer") -> list[tuple[str, str]]:
    return [
        ("id", issuer.oidc_issuer_id),
        ("issuer", issuer.issuer),
        ("client id", issuer.client_id),
        ("trusted domains", ", ".join(issuer.trusted_domains)),
        ("their roles", _roles(issuer.default_roles)),
        ("added", moment(issuer.create_time)),
    ]


def _roles(roles: "Iterable[Role.ValueType]") -> str:
    from comitia.gateway.v1.identity_pb2 import Role
    from comitia_sdk.enums import short_name

    return ", ".join(short_name(Role, role) for role in roles)
