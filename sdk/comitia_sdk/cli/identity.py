"""`comitia token`, `comitia whoami`: who calls, and for whom."""

import typer

from comitia_sdk.cli.connect import client
from comitia_sdk.cli.output import Form, FormOption, as_json, show_json, show_lines


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
        tenant = mesh.tenants.own().name
        url = mesh.url
    if output is Form.JSON:
        show_json({"tenant_name": tenant, **as_json(me)})
        return
    show_lines(
        [
            ("mesh", url),
            ("tenant", f"{tenant} ({me.tenant_id})"),
            ("subject", me.subject),
            ("email", me.email),
            ("roles", ", ".join(short_name(Role, role) for role in me.roles)),
            ("project", me.project),
        ]
    )
