"""JSON Schemas of a tool's arguments and results."""

from services.meshkit.documents import schema as documents
from services.meshkit.documents.schema import Json, Schema, SchemaUnusable
from services.tools.domain.errors import SchemaInvalid


def compile_schema(schema: Json, *, field: str, object_only: bool) -> Schema:
    """Compiles a schema.

    Args:
        object_only: True where the values are objects, so that the schema must ask for `type: object`.
    Raises: SchemaInvalid, naming `field`, the reason and the place in the schema.
    """
    try:
        return documents.compile_schema(schema, object_only=object_only)
    except SchemaUnusable as error:
        raise SchemaInvalid(field, error.sentence, path=error.path) from error
