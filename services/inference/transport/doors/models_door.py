"""The doors `/v1/models` and `/v1/models/{model}`: what may be asked, for clients of either dialect."""

from datetime import UTC, datetime
from typing import Final

import msgspec
from aiohttp import web

from services.inference.domain.deployment import DEFAULT, Deployments
from services.inference.domain.errors import ModelNotFound
from services.inference.transport.doors.door import Visit
from services.inference.transport.doors.errors import Dialect

#: Nobody knows when a model was made; clients want a time.
_MADE: Final = datetime(2025, 1, 1, tzinfo=UTC)


class ModelsDoor:
    """Lists models, or gives the one that the path names. Each has the fields of both dialects."""

    dialect = Dialect.OPENAI
    rpc = "/comitia.inference.v1.ModelService/ListModels"

    def __init__(self, deployments: Deployments) -> None:
        self._deployments = deployments

    async def __call__(self, visit: Visit) -> web.StreamResponse:
        """See `Door`."""
        owners = {DEFAULT: "comitia"} if self._deployments.default_generators() else {}
        owners |= {one.name: one.payee for one in self._deployments.all}
        listed = [_model(name, owner) for name, owner in owners.items()]
        answer: object = {
            "object": "list",
            "data": listed,
            "has_more": False,
            "first_id": listed[0]["id"] if listed else None,
            "last_id": listed[-1]["id"] if listed else None,
        }
        if visit.rest:
            answer = _model(visit.rest, self._owner(visit.rest, owners))
        return web.Response(
            body=msgspec.json.encode(answer), content_type="application/json", headers=dict(visit.headers)
        )

    def _owner(self, name: str, owners: dict[str, str]) -> str:
        if name in owners:
            return owners[name]
        of_model = [one.payee for one in self._deployments.all if one.model == name]
        if len(of_model) != 1:
            raise ModelNotFound(name)
        return of_model[0]


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
