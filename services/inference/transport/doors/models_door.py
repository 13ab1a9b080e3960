"""The doors `/v1/models` and `/v1/models/{model}`: what may be asked, for clients of either dialect."""

from datetime import UTC, datetime
from typing import Final

import msgspec
from aiohttp import web

from services.inference.domain.deployment import DEFAULT
from services.inference.domain.errors import ModelNotFound
from services.inference.transport.doors.door import Visit
from services.inference.transport.doors.errors import Dialect
from services.inference.usecases.ports import Registry
from services.meshkit.core.identity import TenantId

#: Nobody knows when a model was made; clients want a time.
_MADE: Final = datetime(2025, 1, 1, tzinfo=UTC)
#: Whose the names are that stand for several models.
_MESH: Final = "comitia"


class ModelsDoor:
    """Lists what the visitor may ask, or gives what the path names. Each has the fields of both dialects."""

    dialect = Dialect.OPENAI
    rpc = "/comitia.inference.v1.ModelService/ListModels"

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def __call__(self, visit: Visit) -> web.StreamResponse:
        """See `Door`."""
        tenant = visit.principal.tenant
        default = (DEFAULT,) if self._registry.resolve(tenant, DEFAULT).versions else ()
        owners = dict.fromkeys((*default, *self._registry.routes(tenant)), _MESH)
        for one in self._registry.versions(tenant):
            owners.setdefault(one.name, one.payee)
        listed = [_model(name, owner) for name, owner in owners.items()]
        answer: object = {
            "object": "list",
            "data": listed,
            "has_more": False,
            "first_id": listed[0]["id"] if listed else None,
            "last_id": listed[-1]["id"] if listed else None,
        }
        if visit.rest:
            answer = _model(visit.rest, owners.get(visit.rest) or self._owner(tenant, visit.rest))
        return web.Response(
            body=msgspec.json.encode(answer), content_type="application/json", headers=dict(visit.headers)
        )

    def _owner(self, tenant: TenantId, name: str) -> str:
        """Gives whose a model is that is named as its provider does, or with a version. Raises: ModelNotFound."""
        versions = self._registry.resolve(tenant, name).versions
        if not versions:
            raise ModelNotFound(name)
        return versions[0].payee


def _model(name: str, owner: str) -> dict[str, object]:
    return {
        "id": name,
        "object": "model",
        "created": int(_MADE.timestamp()),
        "owned_by": owner,
        "type": "model",
        "display_name": name,
        "created_at": _MADE.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
