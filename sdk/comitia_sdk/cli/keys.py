"""`comitia key`, `comitia service-account`, `comitia signing-key`: what programs prove themselves with."""

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Final

import typer

from comitia_sdk.cli.connect import client
from comitia_sdk.cli.ids import id_of
from comitia_sdk.cli.output import Form, FormOption, as_json, moment, show_json, show_one, show_rows

if TYPE_CHECKING:
    from collections.abc import Iterable

    from comitia.gateway.v1.identity_pb2 import ApiKey, Role, ServiceAccount

keys: Final = typer.Typer(no_args_is_help=True, help="API keys of your tenant.")
service_accounts: Final = typer.Typer(
    no_args_is_help=True, help="Programs that work for your tenant: a name and roles that stay while keys come and go."
)
signing_keys: Final = typer.Typer(
    no_args_is_help=True, help="Keys that sign access tokens, for operators of the installation."
)

_SPAN: Final = re.compile(r"([1-9][0-9]{0,5})(s|m|h|d)")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_LONGEST_OVERLAP: Final = timedelta(days=7)

_KeyArgument = Annotated[
    str,
    typer.Argument(
        parser=id_of("key", listed_by="comitia key list"),
        metavar="KEY",
        help="Id of the key, `key_…`; see `comitia key list`.",
    ),
]
_account_id: Final = id_of("svc", listed_by="comitia service-account list")
_AccountArgument = Annotated[
    str,
    typer.Argument(
        parser=_account_id, metavar="ACCOUNT", help="Id of the account, `svc_…`; see `comitia service-account list`."
    ),
]
_RoleOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ROLE",
        help="admin, operator, auditor or tenant_user; repeat for several. Default: tenant_user.",
        show_default=False,
    ),
]
_ProjectOption = Annotated[str, typer.Option(metavar="PROJECT", help="Bind it to one project. Default: any.")]


def _span(text: str) -> timedelta:
    """Reads a time span such as `30d`."""
    match = _SPAN.fullmatch(text)
    if match is None:
        raise typer.BadParameter("must be a number with s, m, h or d, such as 30d")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def _overlap(text: str) -> timedelta:
    """Reads how long an old secret goes on working."""
    span = _span(text)
    if span > _LONGEST_OVERLAP:
        raise typer.BadParameter(f"must be at most {_LONGEST_OVERLAP.days}d, such as 24h")
    return span


_Span = Annotated[
    timedelta | None,
    typer.Option(parser=_span, metavar="TIME", help="How long it works, such as 12h or 90d. Default: until revoked."),
]


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name for people.")],
    role: _RoleOption = None,
    scope: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PERMISSION",
            help="Narrow the key to this permission, such as sessions.read; repeat for several.",
            show_default=False,
        ),
    ] = None,
    project: _ProjectOption = "",
    expires: _Span = None,
    service_account: Annotated[
        str | None,
        typer.Option(
            parser=_account_id, metavar="ACCOUNT", help="Make it for this service account, with its roles and project."
        ),
    ] = None,
    output: FormOption = Form.TABLE,
) -> None:
    """Makes an API key. Its secret is shown once.

    Example:  comitia key create ci --role tenant_user --expires 90d

    Example:  comitia key create dashboard --scope sessions.read --scope costs.read

    Example:  comitia key create nightly --service-account svc_01j…
    """
    roles = role or ([] if service_account else ["tenant_user"])
    with client() as mesh:
        made = mesh.identity.create_key(
            name,
            roles=roles,
            project=project,
            scopes=scope or [],
            expire_time=None if expires is None else datetime.now(UTC) + expires,
            service_account_id=service_account or "",
        )
    if output is Form.JSON:
        show_json(as_json(made))
        return
    show_one(output, made.api_key, [*_key(made.api_key), ("secret (shown once)", made.secret)])


@keys.command("list")
def list_keys(output: FormOption = Form.TABLE) -> None:
    """Lists the tenant's API keys, newest first, revoked ones included.

    Example:  comitia key list
    """
    with client() as mesh:
        found = list(mesh.identity.list_keys())
    columns = tuple(name for name, _ in _key(found[0])) if found else ()
    rows = [tuple(value for _, value in _key(key)) for key in found]
    show_rows(output, found, columns, rows, empty="no keys; make one with `comitia key create`")


@keys.command("rotate")
def rotate_key(
    api_key_id: _KeyArgument,
    overlap: Annotated[
        timedelta | None,
        typer.Option(
            parser=_overlap,
            metavar="TIME",
            help="How long the old secret goes on working, at most 7d. Default: it ends.",
        ),
    ] = None,
    output: FormOption = Form.TABLE,
) -> None:
    """Gives an API key a new secret, which is shown once. Its id, roles and history stay.

    Example:  comitia key rotate key_01j… --overlap 24h
    """
    with client() as mesh:
        made = mesh.identity.rotate_key(api_key_id, overlap=overlap or timedelta())
    if output is Form.JSON:
        show_json(as_json(made))
        return
    show_one(output, made.api_key, [*_key(made.api_key), ("secret (shown once)", made.secret)])


@keys.command("revoke")
def revoke_key(api_key_id: _KeyArgument, output: FormOption = Form.TABLE) -> None:
    """Revokes an API key. It, and tokens that were given for it, are refused everywhere within 5 seconds.

    Example:  comitia key revoke key_01j…
    """
    with client() as mesh:
        key = mesh.identity.revoke_key(api_key_id)
    show_one(output, key, _key(key))


@service_accounts.command("create")
def create_service_account(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name for people.")],
    role: _RoleOption = None,
    project: _ProjectOption = "",
    output: FormOption = Form.TABLE,
) -> None:
    """Makes a service account. Then make a key for it: `comitia key create … --service-account svc_…`.

    Example:  comitia service-account create nightly-reports --role auditor
    """
    with client() as mesh:
        account = mesh.identity.create_service_account(name, roles=role or ["tenant_user"], project=project)
    show_one(output, account, _account(account))


@service_accounts.command("list")
def list_service_accounts(output: FormOption = Form.TABLE) -> None:
    """Lists the tenant's service accounts, newest first, disabled ones included.

    Example:  comitia service-account list
    """
    with client() as mesh:
        found = list(mesh.identity.list_service_accounts())
    columns = ("account", "name", "roles", "project", "made", "disabled")
    rows = [tuple(value for _, value in _account(account)) for account in found]
    show_rows(output, found, columns, rows, empty="no service accounts; make one with `comitia service-account create`")


@service_accounts.command("disable")
def disable_service_account(account_id: _AccountArgument, output: FormOption = Form.TABLE) -> None:
    """Disables a service account for good, and revokes all its keys.

    Example:  comitia service-account disable svc_01j…
    """
    with client() as mesh:
        account = mesh.identity.disable_service_account(account_id)
    show_one(output, account, _account(account))


@signing_keys.command("rotate")
def rotate_signing_key(output: FormOption = Form.TABLE) -> None:
    """Makes a new key that signs access tokens. It is published at once and signs a little later; no call fails.

    Example:  comitia signing-key rotate
    """
    with client() as mesh:
        made = mesh.identity.rotate_signing_key()
    show_one(output, made, [("key", made.key_id), ("signs from", moment(made.sign_time))])


@signing_keys.command("list")
def list_signing_keys(output: FormOption = Form.TABLE) -> None:
    """Lists the public keys that verify access tokens now.

    Example:  comitia signing-key list
    """
    with client() as mesh:
        found = list(mesh.identity.key_set())
    rows = [(key.kid, key.alg, key.x) for key in found]
    show_rows(output, found, ("key", "algorithm", "public key"), rows, empty="no keys")


def _key(key: "ApiKey") -> list[tuple[str, str]]:
    return [
        ("key", key.api_key_id),
        ("name", key.display_name),
        ("roles", _roles(key.roles)),
        ("scopes", ", ".join(key.scopes)),
        ("project", key.project),
        ("account", key.service_account_id),
        ("made", moment(key.create_time)),
        ("last use", moment(key.last_use_time)),
        ("expires", moment(key.expire_time)),
        ("old secret until", moment(key.previous_secret_expire_time)),
        ("revoked", moment(key.revoke_time)),
    ]


def _account(account: "ServiceAccount") -> list[tuple[str, str]]:
    return [
        ("account", account.service_account_id),
        ("name", account.display_name),
        ("roles", _roles(account.roles)),
        ("project", account.project),
        ("made", moment(account.create_time)),
        ("disabled", moment(account.disable_time)),
    ]


def _roles(roles: "Iterable[Role.ValueType]") -> str:
    from comitia.gateway.v1.identity_pb2 import Role
    from comitia_sdk.enums import short_name

    return ", ".join(short_name(Role, role) for role in roles)
