"""`comitia models`: what the mesh can ask."""

from comitia_sdk.cli.connect import client
from comitia_sdk.cli.output import Form, FormOption, show_rows


def models(output: FormOption = Form.TABLE) -> None:
    """Lists the models in the order in which the default chain asks them.

    Example:  comitia models
    """
    from comitia.inference.v1.model_pb2 import ModelTask
    from comitia_sdk.enums import short_name

    with client() as mesh:
        found = list(mesh.models.list())
    rows = [
        (
            one.name,
            short_name(ModelTask, one.task),
            "yes" if one.in_default_chain else "by name",
            "yes" if one.priced else "no",
            one.region,
        )
        for one in found
    ]
    empty = "no model; set OPENAI_API_KEY or ANTHROPIC_API_KEY, or run `make setup` for the local one"
    show_rows(output, found, ("model", "task", "in the chain", "priced", "region"), rows, empty=empty)
