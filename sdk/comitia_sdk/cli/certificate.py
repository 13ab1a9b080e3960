"""`comitia certificate …`: what the services of the mesh on this machine prove themselves by to each other."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from comitia_sdk.cli.mesh import DataDirOption, import_launcher
from comitia_sdk.cli.output import Form, FormOption, show_json, show_rows

if TYPE_CHECKING:
    from services.launcher.certificates import CertificateState

app = typer.Typer(
    no_args_is_help=True,
    help="Certificates between the services of this mesh, where it was started by `comitia up --mtls`.",
)


@app.command()
def rotate(
    authority: Annotated[
        bool, typer.Option("--authority", help="Another authority, too; for when its key may be known to somebody.")
    ] = False,
    data_dir: DataDirOption = None,
) -> None:
    """Gives every service a new certificate now. No call fails by it.

    It happens by itself before certificates end. Another authority is put in place step by step while the mesh runs.

    Example:  comitia certificate rotate
    """
    certificates = _certificates(data_dir)
    if authority:
        certificates.exchange_authority()
        typer.echo("the authority is being exchanged; within a minute all show certificates of the new one")
    else:
        renewed = certificates.renew()
        typer.echo(f"{len(renewed)} certificates are new; whoever runs takes them up within seconds")


@app.command()
def status(data_dir: DataDirOption = None, output: FormOption = Form.TABLE) -> None:
    """Shows who holds which certificate, and until when.

    Example:  comitia certificate status
    """
    found: tuple[CertificateState, ...] = _certificates(data_dir).states()
    if output is Form.JSON:
        show_json(
            [
                {"holder": one.holder, "made": one.made.isoformat(), "ends": one.ends.isoformat(), "serial": one.serial}
                for one in found
            ]
        )
        return
    rows = [
        (one.holder, f"{one.made:%Y-%m-%d %H:%M:%SZ}", f"{one.ends:%Y-%m-%d %H:%M:%SZ}", one.serial) for one in found
    ]
    empty = "this mesh has no certificates; start it with `comitia up --mtls`"
    show_rows(output, [], ("holder", "made", "ends", "serial"), rows, empty=empty)


def _certificates(data_dir: Any) -> Any:
    """Gives the certificates of a mesh. Typed as Any, because the client must not depend on the servers."""
    import_launcher()
    from importlib import import_module

    return import_module("services.launcher.certificates").certificates_of(data_dir)
