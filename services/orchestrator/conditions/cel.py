"""CEL: parsed and type-checked by `cel-expr-python`, evaluated by `cel_program` step by step.

The library's own evaluator is not used: it walks maps in another order in every process, which a replay would not
survive, and what it does can be bounded by the number of iterations only.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false, reportAttributeAccessIssue=false
# The messages of checked expressions come without stubs.

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cel.expr import checked_pb2
from google.protobuf.any_pb2 import Any as AnyProto
from google.protobuf.message import DecodeError

from services.orchestrator.conditions.budget import Budget
from services.orchestrator.conditions.cel_program import Program, translate
from services.orchestrator.conditions.cel_types import NODES, environment
from services.orchestrator.conditions.errors import ExpressionRefused, unknown_node
from services.orchestrator.conditions.shapes import ANY, ListOf, MapOf, Record, Scalar, Shape

MAX_CHARACTERS: Final = 2_000
_PROBLEM: Final = re.compile(r"ERROR: <input>:(-?\d+):(-?\d+): (.*)")
#: What follows from an earlier problem.
_CONSEQUENCE: Final = "*error*"
_SYNTAX: Final = "Syntax error: "
_TOO_DEEP: Final = "recursion"
_NO_FIELD: Final = re.compile(r"undefined field '(.*)' not found in struct '(.*)'")
_NO_FIELDS: Final = re.compile(r"expression of type '(.*)' cannot be the operand of a select operation")
_UNKNOWN: Final = re.compile(r"undeclared reference to '(.*)'")
_RECORD: Final = re.compile(r"comitia_workflow\.(R\d+|V_\w+)")
_SCALARS: Final = {
    checked_pb2.Type.BOOL: Scalar.TRUTH,
    checked_pb2.Type.INT64: Scalar.WHOLE,
    checked_pb2.Type.DOUBLE: Scalar.NUMBER,
    checked_pb2.Type.STRING: Scalar.TEXT,
}


@dataclass(frozen=True, slots=True)
class CelExpression:
    """An expression that compiled."""

    text: str
    program: Program
    #: What its value is; ANY where only the facts say.
    shape: Shape

    @property
    def names(self) -> frozenset[str]:
        """Variables that it reads."""
        return self.program.names

    @property
    def nodes(self) -> frozenset[str]:
        """Ids of the nodes that it reads."""
        return self.program.nodes

    def evaluate(self, facts: Mapping[str, object], budget: Budget) -> object:
        """Gives its value for these facts, as JSON. Raises: ExpressionFailed."""
        return self.program.run(facts, budget)


class CelCompiler:
    """Compiles expressions over some variables."""

    def __init__(self, variables: Mapping[str, Shape]) -> None:
        self._environment, self._records = environment(variables)

    def compile(self, text: str) -> CelExpression:
        """Compiles an expression. Raises: ExpressionRefused."""
        if len(text) > MAX_CHARACTERS:
            raise ExpressionRefused(f"has {len(text)} characters; at most {MAX_CHARACTERS} are taken")
        if not text.strip():
            raise ExpressionRefused("is empty")
        try:
            compiled = self._environment.compile(text)
        # The binding raises nothing more exact.
        except RuntimeError as error:
            raise _refusal(str(error), text) from None
        checked = _checked(compiled.serialize())
        return CelExpression(text, translate(checked), _shape(checked.type_map[checked.expr.id], self._records))


def _checked(serialized: bytes) -> Any:
    packed = AnyProto.FromString(serialized)
    checked = checked_pb2.CheckedExpr()
    try:
        packed.Unpack(checked)
    except DecodeError:
        raise ExpressionRefused("nests too deep; write it in several nodes") from None
    return checked


def _refusal(message: str, text: str) -> ExpressionRefused:
    """Words the first problem that the library names."""
    problems = [found for found in _PROBLEM.findall(message) if _CONSEQUENCE not in found[2]]
    if _TOO_DEEP in message or not problems:
        return ExpressionRefused("nests deeper than 32 levels; write it in several nodes")
    line, column, said = problems[0]
    said = said.removesuffix(" [INVALID_ARGUMENT]").replace(" (in container '')", "")
    at = _offset(text, int(line), int(column))
    if said.startswith(_SYNTAX):
        return ExpressionRefused(f"is no CEL: {said.removeprefix(_SYNTAX).partition(' expecting ')[0]}", at=at)
    missing = _NO_FIELD.fullmatch(said)
    if missing is not None and missing[2] == NODES:
        return unknown_node(missing[1], at=at)
    if missing is not None:
        return ExpressionRefused(f"names `{missing[1]}`, which its schema does not have", at=at, typed=True)
    flat = _NO_FIELDS.fullmatch(said)
    if flat is not None:
        return ExpressionRefused(f"asks a value of type {flat[1]} for a field, which it cannot have", at=at, typed=True)
    unknown = _UNKNOWN.fullmatch(said)
    if unknown is not None:
        return ExpressionRefused(f"names `{unknown[1]}`, which is neither a variable nor a function here", at=at)
    return ExpressionRefused(_RECORD.sub("object", said), at=at, typed=True)


def _offset(text: str, line: int, column: int) -> int:
    """Gives the character, from 1, of a line and column as the library counts them."""
    if line < 1:
        return 0
    before = sum(len(one) + 1 for one in text.split("\n")[: line - 1])
    return before + column


def _shape(kind: Any, records: Mapping[str, Record]) -> Shape:
    match kind.WhichOneof("type_kind"):
        case "primitive":
            return _SCALARS.get(kind.primitive, ANY)
        case "list_type":
            return ListOf(_shape(kind.list_type.elem_type, records))
        case "map_type":
            return MapOf(_shape(kind.map_type.value_type, records))
        case "message_type":
            return records.get(kind.message_type, ANY)
        case _:
            return ANY
