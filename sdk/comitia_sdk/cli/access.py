"""`comitia access`: who may view, run, edit or administer what."""

from typing import Annotated, Final

import typer

from comitia_sdk.cli.connect import client
from comitia_sdk.cli.failure import EXIT_REFUSED
from comitia_sdk.cli.output import Form, FormOption, as_json, moment, plain, show_json, show_one, show_rows
from comitia_sdk.cli.reading import FileArgument, read_text

app: Final = typer.Typer(
    no_args_is_help=True, help="Relations: who may view, run, edit or administer which project or workflow."
)
model: Final = typer.Typer(no_args_is_help=True, help="The authorization model: OpenFGA's text, schema 1.1.")
app.add_typer(model, name="model")

User = Annotated[
    str,
    typer.Argument(
        metavar="USER", help="Mail address, id of a key or account, or `type:id`, `type:*`, `type:id#relation`."
    ),
]
Relation = Annotated[str, typer.Argument(metavar="RELATION", help="Relation of the object's type, such as editor.")]
Object = Annotated[str, typer.Argument(metavar="OBJECT", help="`type:id`, such as project:claims.")]


@model.command("show")
def show_model(output: FormOption = Form.TABLE) -> None:
    """Shows the model; the one that ships until you set your own.

    Example:  comitia access model show > model.fga
    """
    with client() as mesh:
        found = mesh.access.model()
    if output is Form.JSON:
        show_json(as_json(found))
        return
    typer.echo(plain(found.model), nl=not found.model.endswith("\n"))


@model.command("set")
def set_model(
    file: FileArgument,
    etag: Annotated[str, typer.Option(metavar="ETAG", help="Replace only this version of the model.")] = "",
    output: FormOption = Form.TABLE,
) -> None:
    """Replaces the model. Relations stay; those that it has no place for grant nothing.

    Example:  comitia access model set model.fga
    """
    text = read_text(file)
    with client() as mesh:
        now = mesh.access.set_model(text, etag=etag)
    if output is Form.JSON:
        show_json({"etag": now})
        return
    typer.echo(f"the model is now {plain(now)}")


@app.command()
def check(user: User, relation: Relation, object: Object, output: FormOption = Form.TABLE) -> None:
    """Says whether a user has a relation to an object, and why. Exits with 1 when not.

    Example:  comitia access check anna@example.com editor project:claims
    """
    with client() as mesh:
        found = mesh.access.check(_named(user), relation, object)
    if output is Form.JSON:
        show_json(as_json(found))
    else:
        typer.echo("yes" if found.allowed else "no")
        for sentence in found.explanation:
            typer.echo(f"  {plain(sentence)}")
    if not found.allowed:
        raise typer.Exit(EXIT_REFUSED)


@app.command()
def grant(user: User, relation: Relation, object: Object, output: FormOption = Form.TABLE) -> None:
    """Gives a user a relation to an object.

    Example:  comitia access grant anna@example.com editor project:claims
    """
    with client() as mesh:
        fresh = mesh.access.grant(_named(user), relation, object)
    _say(output, _named(user), relation, object, "granted" if fresh else "was granted before")


@app.command()
def revoke(user: User, relation: Relation, object: Object, output: FormOption = Form.TABLE) -> None:
    """Takes a relation away again. It ends everywhere within 5 seconds.

    Example:  comitia access revoke anna@example.com editor project:claims
    """
    with client() as mesh:
        gone = mesh.access.revoke(_named(user), relation, object)
    _say(output, _named(user), relation, object, "revoked" if gone else "was not granted")


@app.command("list")
def list_(
    object: Annotated[str, typer.Option(metavar="OBJECT", help="Only of this object.")] = "",
    relation: Annotated[str, typer.Option(metavar="RELATION", help="Only this relation.")] = "",
    user: Annotated[str, typer.Option(metavar="USER", help="Only of this user.")] = "",
    output: FormOption = Form.TABLE,
) -> None:
    """Lists what was granted, by object.

    Example:  comitia access list --object project:claims
    """
    with client() as mesh:
        found = list(mesh.access.relations(object=object, relation=relation, user=_named(user) if user else ""))
    rows = [(one.user, one.relation, one.object, moment(one.write_time)) for one in found]
    show_rows(output, found, ("user", "relation", "object", "granted"), rows, empty="no relations; roles alone decide")


def _named(user: str) -> str:
    """Takes a name without a type for a user's."""
    return user if ":" in user else f"user:{user}"


def _say(output: Form, user: str, relation: str, thing: str, outcome: str) -> None:
    from comitia.gateway.v1.access_service_pb2 import RelationTuple

    one = RelationTuple(user=user, relation=relation, object=thing)
    show_one(output, one, [("user", user), ("relation", relation), ("object", thing), ("outcome", outcome)])
