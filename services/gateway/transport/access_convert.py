"""Between messages of relations and the domain. Pure functions."""

from comitia.gateway.v1 import access_service_pb2 as pb
from services.gateway.relations.check import Question
from services.gateway.relations.tuples import RelationTuple, parse_object, parse_relation, parse_user
from services.gateway.transport.convert import timestamp
from services.gateway.usecases.access_ports import TupleChange, TupleFilter


def to_change(request: pb.WriteRelationsRequest) -> TupleChange:
    """Reads tuples to add and remove. Raises: Invalid."""
    return TupleChange(
        writes=[_to_tuple(one, f"writes[{index}]") for index, one in enumerate(request.writes)],
        deletes=[_to_tuple(one, f"deletes[{index}]") for index, one in enumerate(request.deletes)],
    )


def to_filter(request: pb.ListRelationsRequest) -> TupleFilter:
    """Reads which tuples to list. Raises: Invalid."""
    return TupleFilter(
        object=parse_object(request.object, field="object") if request.object else None,
        relation=parse_relation(request.relation, field="relation") if request.relation else None,
        user=parse_user(request.user, field="user") if request.user else None,
    )


def to_question(request: pb.CheckRelationRequest) -> Question:
    """Reads a question. Raises: Invalid."""
    return Question(
        parse_object(request.user, field="user"),
        parse_relation(request.relation, field="relation"),
        parse_object(request.object, field="object"),
    )


def tuple_to_proto(one: RelationTuple) -> pb.RelationTuple:
    """Writes a tuple."""
    return pb.RelationTuple(
        user=str(one.user),
        relation=one.relation,
        object=str(one.object),
        write_time=None if one.write_time is None else timestamp(one.write_time),
    )


def _to_tuple(one: pb.RelationTuple, field: str) -> RelationTuple:
    """Reads a tuple; when it was written is not the caller's to say."""
    return RelationTuple(
        parse_user(one.user, field=f"{field}.user"),
        parse_relation(one.relation, field=f"{field}.relation"),
        parse_object(one.object, field=f"{field}.object"),
    )
