"""Says whether somebody has a relation to something."""

from collections.abc import Iterator
from dataclasses import dataclass

from services.gateway.relations.check import Finding, Question, refuse_unknown
from services.gateway.relations.tuples import Object, parse_object, parse_relation
from services.gateway.usecases.access_ports import ModelReader, RelationStore
from services.meshkit.core.errors import Invalid
from services.meshkit.core.identity import Caller, Principal, Role, TenantId

#: Type of the people and keys of a tenant in a model.
USER_TYPE = "user"


class CheckRelation:
    """Answers about any user of the tenant, with reasons."""

    def __init__(self, *, models: ModelReader, store: RelationStore) -> None:
        self._models = models
        self._store = store

    async def __call__(self, tenant: TenantId, question: Question) -> Finding:
        """Raises: Invalid: the model has no such type or relation. CheckTooDeep."""
        model = await (await self._models.get(tenant)).read()
        refuse_unknown(model, question)
        return await self._store.check(tenant, model, question)


@dataclass(frozen=True, slots=True)
class Authorization:
    """Whether the caller may, and what is missing if not."""

    allowed: bool
    missing: str = ""


class AuthorizeCaller:
    """Answers a service about its caller: by relation, or by role alone where nothing was ever written."""

    def __init__(self, *, models: ModelReader, store: RelationStore) -> None:
        self._models = models
        self._store = store

    async def __call__(self, caller: Caller, relation: str, thing: str) -> Authorization:
        """Args:
            thing: `type:id`; an id that cannot stand in a tuple is one that nobody has a relation to.
        Raises: Invalid: no type or no relation. CheckTooDeep.
        """
        parse_relation(relation, field="relation")
        type_name, colon, name = thing.partition(":")
        if not (type_name and colon and name):
            raise Invalid("object", "must be `type:id`")
        tenant = caller.principal.tenant
        if Role.ADMIN in caller.principal.roles:
            return Authorization(True)
        stored = await self._models.get(tenant)
        if type_name not in stored.governed:
            return Authorization(True)
        model = await stored.read()
        try:
            wanted = parse_object(thing, field="object")
            missing = ""
            for user in _users(caller.principal):
                question = Question(user, relation, wanted)
                refuse_unknown(model, question)
                found = await self._store.check(tenant, model, question)
                if found.allowed:
                    return Authorization(True)
                missing = missing or _missing(question, found)
        except Invalid as error:
            return Authorization(False, error.message)
        return Authorization(False, missing)


def _users(principal: Principal) -> Iterator[Object]:
    """Gives the names under which a caller can stand in tuples."""
    for name in (principal.subject, principal.email):
        if name is not None:
            try:
                yield parse_object(f"{USER_TYPE}:{name}", field="user")
            except Invalid:
                # No tuple can name it, so none does.
                continue


def _missing(question: Question, found: Finding) -> str:
    needed = f"{question.user} is not {question.relation} of {question.object}"
    return f"{needed}; {' or '.join(found.would_grant[:2])} would grant it" if found.would_grant else needed
