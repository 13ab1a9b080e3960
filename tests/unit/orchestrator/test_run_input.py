"""What runs are started with, and what their nodes give, is held against schemas within a bound."""

import pytest

from comitia.orchestrator.v1 import workflow_pb2
from services.orchestrator.domain.errors import RunInputInvalid
from services.orchestrator.programs.output_schema import OutputBreaksSchema, OutputSchema
from services.orchestrator.programs.values import to_struct
from services.orchestrator.usecases.run_input import check_schema

_COSTLY = {"type": "object", "properties": {"list": {"items": {"anyOf": [{"const": one} for one in range(1_500)]}}}}


def test_an_input_that_is_too_large_for_the_schema_of_its_workflow_is_refused() -> None:
    workflow = workflow_pb2.Workflow(input_schema=to_struct(_COSTLY))
    check_schema(workflow, {"list": [1]})

    with pytest.raises(RunInputInvalid, match="is too large to be held against its schema"):
        check_schema(workflow, {"list": [1] * 100_000})


def test_an_input_that_does_not_fit_is_refused_by_its_field() -> None:
    workflow = workflow_pb2.Workflow(input_schema=to_struct(_COSTLY))

    with pytest.raises(RunInputInvalid, match=r"input\.list\[1\]"):
        check_schema(workflow, {"list": [1, -1]})


def test_an_output_that_is_too_large_for_its_schema_does_not_fit() -> None:
    schema = OutputSchema(_COSTLY)
    schema.check({"list": [1]})

    with pytest.raises(OutputBreaksSchema, match="too large"):
        schema.check({"list": [1] * 100_000})
