"""A model as the JSON of OpenFGA's HTTP API: https://openfga.dev/api/service#/Authorization%20Models."""

from collections.abc import Mapping
from typing import Any, Final

from services.gateway.relations.model import (
    Computed,
    Direct,
    Exclusion,
    Expression,
    FromParent,
    Intersection,
    Kind,
    Model,
    Union,
)

# JSON of a foreign server, read member by member.
Json = dict[str, Any]
SCHEMA: Final = "1.1"


def model_to_json(model: Model) -> Json:
    """Writes the body of `POST /stores/{id}/authorization-models`."""
    return {
        "schema_version": SCHEMA,
        "type_definitions": [_type_to_json(model, name, relations) for name, relations in model.types.items()],
    }


def model_from_json(written: Mapping[str, Any]) -> Model | None:
    """Reads a model that a server gives; None for one with parts that ours never have, such as conditions."""
    if written.get("schema_version") != SCHEMA or written.get("conditions"):
        return None
    types: dict[str, dict[str, Expression]] = {}
    definitions: list[Json] = written.get("type_definitions") or []
    for definition in definitions:
        metadata: Json = definition.get("metadata") or {}
        kinds: dict[str, Json | None] = metadata.get("relations") or {}
        rewrites: dict[str, Json] = definition.get("relations") or {}
        relations: dict[str, Expression] = {}
        for name, rewrite in rewrites.items():
            allowed: list[Json] = (kinds.get(name) or {}).get("directly_related_user_types") or []
            expression = _from_rewrite(rewrite, allowed)
            if expression is None:
                return None
            relations[name] = expression
        types[definition["type"]] = relations
    return Model(types)


def same_model(one: Model, other: Model) -> bool:
    """Whether two models say the same, in whatever order their kinds of users stand."""
    return _in_order(one) == _in_order(other)


def _in_order(model: Model) -> dict[str, dict[str, Expression]]:
    return {
        name: {relation: _ordered(expression) for relation, expression in relations.items()}
        for name, relations in model.types.items()
    }


def _ordered(expression: Expression) -> Expression:
    match expression:
        case Direct(kinds):
            return Direct(tuple(sorted(kinds, key=str)))
        case Union(parts):
            return Union(tuple(map(_ordered, parts)))
        case Intersection(parts):
            return Intersection(tuple(map(_ordered, parts)))
        case Exclusion(base, taken):
            return Exclusion(_ordered(base), _ordered(taken))
        case _:
            return expression


def _type_to_json(model: Model, name: str, relations: Mapping[str, Expression]) -> Json:
    direct = {relation: model.direct(name, relation) for relation in relations}
    metadata = {
        relation: {"directly_related_user_types": [] if found is None else [_kind_to_json(one) for one in found.kinds]}
        for relation, found in direct.items()
    }
    rewrites = {relation: _to_rewrite(expression) for relation, expression in relations.items()}
    return {"type": name, "relations": rewrites, "metadata": {"relations": metadata}}


def _kind_to_json(kind: Kind) -> Json:
    if kind.everyone:
        return {"type": kind.type, "wildcard": {}}
    return {"type": kind.type, "relation": kind.relation} if kind.relation else {"type": kind.type}


def _to_rewrite(expression: Expression) -> Json:
    match expression:
        case Direct():
            return {"this": {}}
        case Computed(relation):
            return {"computedUserset": {"relation": relation}}
        case FromParent(relation, parent):
            step = {"tupleset": {"relation": parent}, "computedUserset": {"relation": relation}}
            return {"tupleToUserset": step}
        case Union(parts):
            return {"union": {"child": [_to_rewrite(part) for part in parts]}}
        case Intersection(parts):
            return {"intersection": {"child": [_to_rewrite(part) for part in parts]}}
        case Exclusion(base, taken):
            return {"difference": {"base": _to_rewrite(base), "subtract": _to_rewrite(taken)}}


def _from_rewrite(rewrite: Mapping[str, Any], allowed: list[Json]) -> Expression | None:
    """Reads one rewrite rule, exactly one member of which is set."""
    if "this" in rewrite:
        if any(kind.get("condition") for kind in allowed):
            return None
        return Direct(tuple(Kind(one["type"], one.get("relation") or "", "wildcard" in one) for one in allowed))
    if "computedUserset" in rewrite:
        return Computed(rewrite["computedUserset"]["relation"])
    if "tupleToUserset" in rewrite:
        step = rewrite["tupleToUserset"]
        return FromParent(step["computedUserset"]["relation"], step["tupleset"]["relation"])
    if "difference" in rewrite:
        base = _from_rewrite(rewrite["difference"]["base"], allowed)
        taken = _from_rewrite(rewrite["difference"]["subtract"], allowed)
        return None if base is None or taken is None else Exclusion(base, taken)
    for member, make in (("union", Union), ("intersection", Intersection)):
        if member in rewrite:
            parts = [_from_rewrite(child, allowed) for child in rewrite[member]["child"]]
            whole = tuple(part for part in parts if part is not None)
            return make(whole) if len(whole) == len(parts) else None
    return None
