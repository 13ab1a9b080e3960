"""Writes the OpenAPI 3.1 document."""

import json

from protos.codegen.contract import Contract


def render(contract: Contract, *, version: str) -> str:
    """The document as JSON."""
    return json.dumps({"openapi": "3.1.0", "info": {"title": "Comitia", "version": version}, "paths": {}}) + "\n"
