"""Relations kept and checked by an OpenFGA server, over its HTTP API: https://openfga.dev/api/service.

One store serves all tenants. Ids are written `<tenant>/<id>`, and our own ids never hold a slash, so no tenant's tuple
can name another's object. Each check names the model of its tenant; models are immutable on the server.
"""

import asyncio
import json
from collections import OrderedDict
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import aiohttp

from services.gateway.domain.access_errors import CheckTooDeep, ModelInvalid, RelationsChangedMeanwhile
from services.gateway.relations.check import Finding, Question
from services.gateway.relations.explain import ways
from services.gateway.relations.model import Model
from services.gateway.relations.openfga_json import Json, model_from_json, model_to_json, same_model
from services.gateway.relations.search import Search
from services.gateway.relations.tuples import EVERYONE, Node, Object, RelationTuple, User, parse_object, parse_user
from services.gateway.usecases.access_ports import AccessWork, Changed, TupleChange, TupleFilter, TuplePage
from services.meshkit.core.errors import Internal, Invalid, Unavailable
from services.meshkit.core.identity import TenantId
from services.meshkit.core.paging import decode_page_token, encode_page_token

_NAME: Final = "OpenFGA"
#: Models of the server that are compared with one of ours before it is written there.
_LATEST_MODELS: Final = 50
_MOST_MODELS: Final = 1_024
#: Most tuples the server gives at once.
_MOST_AT_ONCE: Final = 100
#: Questions to the server for one page; a list that needs more goes on with the next page.
_MOST_READS: Final = 20
_READS_TOGETHER: Final = 8
#: How often a change is looked at anew that somebody else's change of the same tuples came in between.
_MOST_TRIES: Final = 3
_CONNECTIONS: Final = 32


class _Refused(Exception):
    """The server does not take a request; with its own code and sentence."""

    def __init__(self, status: int, code: str, sentence: str) -> None:
        super().__init__(f"{status} {code}: {sentence}")
        self.status = status
        self.code = code
        self.sentence = sentence


@asynccontextmanager
async def openfga_store(
    url: str, *, store_id: str, token: str = "", seconds: float = 3.0
) -> AsyncGenerator["OpenFgaRelationStore"]:
    """Opens connections to a server and closes them after the block.

    Args:
        token: preshared key of the server; empty for a server without one.
        seconds: longest wait for one answer.
    """
    headers = {"authorization": f"Bearer {token}"} if token else {}
    async with aiohttp.ClientSession(
        f"{url.rstrip('/')}/stores/{store_id}/",
        headers=headers,
        timeout=aiohttp.ClientTimeout(total=seconds),
        connector=aiohttp.TCPConnector(limit=_CONNECTIONS),
    ) as session:
        yield OpenFgaRelationStore(session)


class OpenFgaRelationStore:
    """Implements `usecases.access_ports.RelationStore`."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._model_ids: OrderedDict[str, str] = OrderedDict()

    @property
    def elsewhere(self) -> bool:
        """See `RelationStore.elsewhere`."""
        return True

    async def accept(self, model: Model) -> None:
        """See `RelationStore.accept`."""
        try:
            await self._model_id(model)
        except _Refused as refused:
            sentence = f"the {_NAME} server does not take this model: {refused.sentence}"
            raise ModelInvalid(sentence, line=1, column=1) from refused

    async def change(self, work: AccessWork, tenant: TenantId, model: Model, change: TupleChange) -> Changed:
        """See `RelationStore.change`. The server is asked before, so that nothing is noted while it is away."""
        names = _Names(tenant)
        writes, deletes = [names.key(one) for one in change.writes], [names.key(one) for one in change.deletes]
        body: Json = {"model": await self._known_model_id(model), "writes": writes, "deletes": deletes}
        fresh, gone = await self._missing_and_there(writes, deletes)
        await work.changes.add(tenant, json.dumps(body).encode())
        return Changed(written=len(fresh), deleted=len(gone))

    async def make(self, body: bytes) -> None:
        """See `RelationStore.make`. What is there already is looked up; the server then changes all or none."""
        change: Json = json.loads(body)
        for attempt in range(1, _MOST_TRIES + 1):
            try:
                await self._make(change)
                return
            except RelationsChangedMeanwhile:
                if attempt == _MOST_TRIES:
                    raise

    async def _make(self, change: Json) -> None:
        fresh, gone = await self._missing_and_there(change["writes"], change["deletes"])
        if not fresh and not gone:
            return
        asked: Json = {"authorization_model_id": change["model"]}
        if fresh:
            asked["writes"] = {"tuple_keys": fresh}
        if gone:
            asked["deletes"] = {"tuple_keys": gone}
        try:
            await self._post("write", asked)
        except _Refused as refused:
            # The one thing that can be wrong with it: another writer was faster.
            if refused.status == 409 or refused.code == "write_failed_due_to_invalid_input":
                raise RelationsChangedMeanwhile from refused
            raise _unexpected(refused) from refused

    async def page(self, tenant: TenantId, wanted: TupleFilter, *, after: str | None, most: int) -> TuplePage:
        """See `RelationStore.page`; in the server's order, and perhaps short of `most` before the end.

        Without an object the server reads through all that it has.
        """
        names = _Names(tenant)
        place = decode_page_token(after or "", str)
        token = "" if place is None else str(place[0])
        key = {} if wanted.object is None else {"tuple_key": names.filter(wanted.object, wanted)}
        found: list[RelationTuple] = []
        for _ in range(_MOST_READS):
            size = min(_MOST_AT_ONCE, most - len(found))
            try:
                answer = await self._post("read", {**key, "page_size": size, "continuation_token": token})
            except _Refused as refused:
                if place is not None and refused.status == 400:
                    raise Invalid("page_token", "is not a token of this list") from refused
                raise _unexpected(refused) from refused
            found += [one for one in names.tuples(answer.get("tuples") or ()) if _fits(one, wanted)]
            token = str(answer.get("continuation_token") or "")
            if not token or len(found) >= most:
                break
        return TuplePage(found, encode_page_token(token) if token else None)

    async def check(self, tenant: TenantId, model: Model, question: Question) -> Finding:
        """See `RelationStore.check`. The server says whether, and not by which way."""
        names = _Names(tenant)
        key = {
            "user": names.object(question.user),
            "relation": question.relation,
            "object": names.object(question.object),
        }
        model_id = await self._known_model_id(model)
        body = {"tuple_key": key, "authorization_model_id": model_id, "consistency": "HIGHER_CONSISTENCY"}
        try:
            allowed = (await self._post("check", body)).get("allowed") is True
        except _Refused as refused:
            if refused.code == "authorization_model_resolution_too_complex":
                raise CheckTooDeep(str(question), limit="the server follows") from refused
            raise _unexpected(refused) from refused
        return _finding(model, question, allowed=allowed, model_id=model_id)

    async def _missing_and_there(
        self, writes: Sequence[Json], deletes: Sequence[Json]
    ) -> tuple[list[Json], list[Json]]:
        """Gives what of `writes` is not there, and what of `deletes` is."""
        gate = asyncio.Semaphore(_READS_TOGETHER)

        async def is_there(key: Json) -> bool:
            async with gate:
                return bool((await self._post("read", {"tuple_key": key, "page_size": 1})).get("tuples"))

        try:
            there = await asyncio.gather(*map(is_there, (*writes, *deletes)))
        except _Refused as refused:
            raise _unexpected(refused) from refused
        fresh = [key for key, found in zip(writes, there, strict=False) if not found]
        gone = [key for key, found in zip(deletes, there[len(writes) :], strict=True) if found]
        return fresh, gone

    async def _known_model_id(self, model: Model) -> str:
        try:
            return await self._model_id(model)
        except _Refused as refused:
            raise _unexpected(refused) from refused

    async def _model_id(self, model: Model) -> str:
        """Finds the server's id of a model, and writes the model there when the server does not have it."""
        body = model_to_json(model)
        text = json.dumps(body, sort_keys=True)
        known = self._model_ids.get(text)
        if known is not None:
            self._model_ids.move_to_end(text)
            return known
        found = await self._find_model(model)
        if found is None:
            found = str((await self._post("authorization-models", body))["authorization_model_id"])
        self._model_ids[text] = found
        if len(self._model_ids) > _MOST_MODELS:
            self._model_ids.popitem(last=False)
        return found

    async def _find_model(self, model: Model) -> str | None:
        answer = await self._request("GET", f"authorization-models?page_size={_LATEST_MODELS}")
        for written in answer.get("authorization_models") or ():
            there = model_from_json(written)
            if there is not None and same_model(there, model):
                return str(written["id"])
        return None

    async def _post(self, path: str, body: Json) -> Json:
        return await self._request("POST", path, body)

    async def _request(self, verb: str, path: str, body: Json | None = None) -> Json:
        """Raises: _Refused; Unavailable: the server is away, or has too much to do."""
        try:
            # A redirect would carry the key, and who may do what, to wherever it points.
            async with self._session.request(verb, path, json=body, allow_redirects=False) as answer:
                found: Any = await answer.json()
                status = answer.status
        except (aiohttp.ClientError, TimeoutError, ValueError) as cause:
            raise Unavailable(_NAME) from cause
        if status >= 500 or status in (422, 429) or 300 <= status < 400:
            raise Unavailable(_NAME)
        if not isinstance(found, dict):
            raise Unavailable(_NAME)
        read: Json = found  # pyright: ignore[reportUnknownVariableType]
        if status >= 400:
            raise _Refused(status, str(read.get("code", "")), str(read.get("message", "")))
        return read


@dataclass(frozen=True, slots=True)
class _Names:
    """How a tenant's users and objects are called on the server."""

    tenant: TenantId

    def object(self, one: Object) -> str:
        return f"{one.type}:{one.id if one.id == EVERYONE else f'{self.tenant}/{one.id}'}"

    def user(self, user: User) -> str:
        return self.object(user.object) + (f"#{user.relation}" if user.relation else "")

    def key(self, one: RelationTuple) -> Json:
        return {"user": self.user(one.user), "relation": one.relation, "object": self.object(one.object)}

    def filter(self, thing: Object, wanted: TupleFilter) -> Json:
        key = {"object": self.object(thing)}
        if wanted.relation is not None:
            key["relation"] = wanted.relation
        if wanted.user is not None:
            key["user"] = self.user(wanted.user)
        return key

    def tuples(self, rows: Iterable[Any]) -> list[RelationTuple]:
        """Reads the tenant's own out of what the server gives."""
        prefix = f"{self.tenant}/"
        found: list[RelationTuple] = []
        for row in rows:
            key = row["key"]
            user, thing = str(key["user"]), str(key["object"])
            kind, _, name = thing.partition(":")
            if not name.startswith(prefix):
                continue
            found.append(
                RelationTuple(
                    parse_user(user.replace(f":{prefix}", ":", 1), field="user"),
                    str(key["relation"]),
                    parse_object(f"{kind}:{name.removeprefix(prefix)}", field="object"),
                    datetime.fromisoformat(row["timestamp"]),
                )
            )
        return found


def _fits(one: RelationTuple, wanted: TupleFilter) -> bool:
    return (
        wanted.object in (None, one.object)
        and wanted.relation in (None, one.relation)
        and wanted.user in (None, one.user)
    )


def _finding(model: Model, question: Question, *, allowed: bool, model_id: str) -> Finding:
    says = f"so says the {_NAME} server under its model {model_id}"
    if allowed:
        return Finding(True, (f"{question}: {says}",))
    search, goal = Search(model, question.user), Node(question.object, question.relation)
    for _ in search.begin(goal):
        pass
    granting = ways(search, question.user, goal)
    defined = f"{question.relation} of {question.object.type} is {search.expression(goal)}"
    refused = f"{question.user} is not {question.relation} of {question.object}: {says}"
    return Finding(False, (refused, defined, *(f"would grant it: {way}" for way in granting)), granting)


def _unexpected(refused: _Refused) -> Internal:
    return Internal(f"the {_NAME} server refused what it should take: {refused}")
