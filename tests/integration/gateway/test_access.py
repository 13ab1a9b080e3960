"""Relations through a real gRPC server and a real Postgres."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

import grpc
import grpc.aio
import pytest

from comitia.gateway.v1 import access_service_pb2 as pb
from comitia.gateway.v1 import identity_pb2
from comitia.gateway.v1 import identity_service_pb2 as identity
from comitia.gateway.v1 import tenant_service_pb2 as tenants
from comitia.gateway.v1.access_service_pb2_grpc import AccessServiceStub
from services.gateway.relations.shipped import SHIPPED_MODEL
from services.meshkit.core.errors import MeshError
from services.meshkit.core.ids import SystemIds
from services.meshkit.grpc.errors import remote_error
from tests.integration.gateway.conftest import Face, Metadata

if TYPE_CHECKING:
    from comitia.gateway.v1.access_service_pb2_grpc import AccessServiceAsyncStub

STRICT_MODEL = SHIPPED_MODEL.replace("define editor: [user] or admin from parent", "define editor: [user]")


@pytest.fixture
def access(face: Face) -> "AccessServiceAsyncStub":
    return AccessServiceStub(face.channel)


def tuples(*texts: str) -> list[pb.RelationTuple]:
    return [
        pb.RelationTuple(user=user, relation=relation, object=thing) for user, relation, thing in map(str.split, texts)
    ]


def writing(*texts: str, request_id: str = "", deletes: Sequence[str] = ()) -> pb.WriteRelationsRequest:
    return pb.WriteRelationsRequest(writes=tuples(*texts), deletes=tuples(*deletes), request_id=request_id)


async def a_user(face: Face, *roles: identity_pb2.Role.ValueType) -> tuple[str, Metadata]:
    """Makes a key with these roles, tenant_user for none; gives its subject and the metadata of its calls."""
    request = identity.CreateApiKeyRequest(display_name="user", roles=roles or [identity_pb2.ROLE_TENANT_USER])
    made = await face.identity.CreateApiKey(request, metadata=await face.admin())
    return made.api_key.api_key_id, await face.login(made.secret)


async def refused(call: object) -> tuple[grpc.StatusCode, MeshError]:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call  # type: ignore[misc]
    return raised.value.code(), remote_error(raised.value)


async def test_the_model_that_ships_is_there_until_another_is_written(
    face: Face, access: "AccessServiceAsyncStub"
) -> None:
    admin = await face.admin()
    shipped = await access.GetAuthorizationModel(pb.GetAuthorizationModelRequest(), metadata=admin)
    assert shipped.model == SHIPPED_MODEL
    request = pb.WriteAuthorizationModelRequest(model=STRICT_MODEL, etag=shipped.etag)
    written = await access.WriteAuthorizationModel(request, metadata=admin)
    found = await access.GetAuthorizationModel(pb.GetAuthorizationModelRequest(), metadata=admin)
    assert (found.model, found.etag) == (STRICT_MODEL, written.etag)
    code, error = await refused(access.WriteAuthorizationModel(request, metadata=admin))
    assert (code, error.reason) == (grpc.StatusCode.ABORTED, "ETAG_STALE")
    assert error.metadata["etag"] == written.etag


async def test_a_wrong_model_is_refused_with_line_and_column_and_changes_nothing(
    face: Face, access: "AccessServiceAsyncStub"
) -> None:
    admin = await face.admin()
    request = pb.WriteAuthorizationModelRequest(model=SHIPPED_MODEL.replace("admin from parent", "owner from parent"))
    code, error = await refused(access.WriteAuthorizationModel(request, metadata=admin))
    assert (code, error.reason, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, "MODEL_INVALID", "model")
    assert (error.metadata["line"], error.metadata["column"]) == ("15", "30")
    found = await access.GetAuthorizationModel(pb.GetAuthorizationModelRequest(), metadata=admin)
    assert found.model == SHIPPED_MODEL


async def test_relations_are_written_listed_checked_and_removed(face: Face, access: "AccessServiceAsyncStub") -> None:
    admin = await face.admin()
    chain = ("organization:acme parent project:claims", "user:anna@example.com admin organization:acme")
    written = await access.WriteRelations(writing(*chain), metadata=admin)
    assert (written.written, written.deleted) == (2, 0)
    first = await access.ListRelations(pb.ListRelationsRequest(page_size=1), metadata=admin)
    rest = await access.ListRelations(
        pb.ListRelationsRequest(page_size=1, page_token=first.next_page_token), metadata=admin
    )
    listed = [f"{one.user} {one.relation} {one.object}" for one in (*first.relations, *rest.relations)]
    assert (sorted(listed), rest.next_page_token) == (sorted(chain), "")
    assert first.relations[0].HasField("write_time")
    question = pb.CheckRelationRequest(user="user:anna@example.com", relation="editor", object="project:claims")
    found = await access.CheckRelation(question, metadata=admin)
    assert found.allowed
    assert "through `admin from parent`" in found.explanation[0]
    removed = await access.WriteRelations(writing(deletes=chain[1:]), metadata=admin)
    assert (removed.written, removed.deleted) == (0, 1)
    found = await access.CheckRelation(question, metadata=admin)
    assert not found.allowed
    assert "would grant it: `user:anna@example.com admin organization:acme`" in found.explanation


async def test_when_a_relation_was_written_is_not_the_callers_to_say(
    face: Face, access: "AccessServiceAsyncStub"
) -> None:
    admin = await face.admin()
    request = writing("user:anna editor project:claims")
    request.writes[0].write_time.FromSeconds(0)
    await access.WriteRelations(request, metadata=admin)
    listed = await access.ListRelations(pb.ListRelationsRequest(), metadata=admin)
    assert listed.relations[0].write_time.ToSeconds() > 0
    gone = pb.WriteRelationsRequest(deletes=request.writes)
    assert (await access.WriteRelations(gone, metadata=admin)).deleted == 1


async def test_a_repeated_request_gives_the_first_answer(face: Face, access: "AccessServiceAsyncStub") -> None:
    admin = await face.admin()
    request = writing("user:anna editor project:claims", request_id=str(SystemIds().uuid()))
    calls = (access.WriteRelations(request, metadata=admin) for _ in range(4))
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    for outcome in outcomes:
        # Who comes while the first is at work is told so, and gets its answer by asking again.
        if isinstance(outcome, grpc.aio.AioRpcError):
            assert remote_error(outcome).reason == "REQUEST_IN_PROGRESS"
        else:
            assert isinstance(outcome, pb.WriteRelationsResponse)
            assert outcome.written == 1
    assert (await access.WriteRelations(request, metadata=admin)).written == 1
    request.writes[0].relation = "viewer"
    code, error = await refused(access.WriteRelations(request, metadata=admin))
    assert (code, error.reason) == (grpc.StatusCode.ABORTED, "REQUEST_ID_REUSED")
    model = pb.WriteAuthorizationModelRequest(model=STRICT_MODEL, request_id=str(SystemIds().uuid()))
    etags = [(await access.WriteAuthorizationModel(model, metadata=admin)).etag for _ in range(2)]
    assert etags[0] == etags[1]


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (writing(), "writes"),
        (writing(*[f"user:u{number} editor project:p" for number in range(101)]), "writes"),
        (writing("user:a editor project:p", "user:a editor project:p"), "writes[1]"),
        (writing("user:a editor project:p", deletes=["user:a editor project:p"]), "deletes[0]"),
        (writing("anna editor project:p"), "writes[0].user"),
        (writing("user: editor project:p"), "writes[0].user"),
        (writing("user:é editor project:p"), "writes[0].user"),
        (writing("user:a\x00b editor project:p"), "writes[0].user"),
        (writing("user:*#x editor project:p"), "writes[0].user"),
        (writing(f"user:{'a' * 129} editor project:p"), "writes[0].user"),
        (writing("user:* editor project:p"), "writes[0].user"),
        (writing("project:p#viewer editor project:p"), "writes[0].user"),
        (writing("user:a editor project"), "writes[0].object"),
        (writing("user:a editor project:a/b"), "writes[0].object"),
        (writing("user:a editor folder:p"), "writes[0].object"),
        (writing("user:a owner project:p"), "writes[0].relation"),
        (writing("user:a edi#tor project:p"), "writes[0].relation"),
        (writing("user:a editor project:p", request_id="1"), "request_id"),
    ],
)
async def test_a_wrong_change_is_refused_with_its_field(
    face: Face, access: "AccessServiceAsyncStub", request_: pb.WriteRelationsRequest, field: str
) -> None:
    code, error = await refused(access.WriteRelations(request_, metadata=await face.admin()))
    assert (code, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, field)


async def test_wrong_questions_and_lists_are_refused_with_their_field(
    face: Face, access: "AccessServiceAsyncStub"
) -> None:
    admin = await face.admin()
    for question, field in (
        (pb.CheckRelationRequest(user="user:*", relation="editor", object="project:p"), "user"),
        (pb.CheckRelationRequest(user="robot:r", relation="editor", object="project:p"), "user"),
        (pb.CheckRelationRequest(user="user:a", relation="", object="project:p"), "relation"),
        (pb.CheckRelationRequest(user="user:a", relation="owner", object="project:p"), "relation"),
        (pb.CheckRelationRequest(user="user:a", relation="editor", object=""), "object"),
    ):
        code, error = await refused(access.CheckRelation(question, metadata=admin))
        assert (code, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, field)
    for wanted, field in (
        (pb.ListRelationsRequest(page_size=-1), "page_size"),
        (pb.ListRelationsRequest(page_token="x"), "page_token"),
        (pb.ListRelationsRequest(object="project"), "object"),
    ):
        code, error = await refused(access.ListRelations(wanted, metadata=admin))
        assert (code, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, field)


async def test_auditors_read_and_users_do_neither(face: Face, access: "AccessServiceAsyncStub") -> None:
    _, auditor = await a_user(face, identity_pb2.ROLE_AUDITOR)
    _, user = await a_user(face)
    await access.GetAuthorizationModel(pb.GetAuthorizationModelRequest(), metadata=auditor)
    for call in (
        access.WriteRelations(writing("user:a editor project:p"), metadata=auditor),
        access.WriteRelations(writing("user:a editor project:p"), metadata=user),
        access.WriteAuthorizationModel(pb.WriteAuthorizationModelRequest(model=SHIPPED_MODEL), metadata=user),
    ):
        code, error = await refused(call)
        assert (code, error.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_MISSING")


async def test_another_tenant_has_its_own_model_and_relations(face: Face, access: "AccessServiceAsyncStub") -> None:
    admin = await face.admin()
    made = await face.tenants.CreateTenant(tenants.CreateTenantRequest(name="acme"), metadata=admin)
    acme = await face.login(made.admin_api_key)
    await access.WriteRelations(writing("user:anna editor project:claims"), metadata=admin)
    await access.WriteAuthorizationModel(pb.WriteAuthorizationModelRequest(model=STRICT_MODEL), metadata=admin)
    listed = await access.ListRelations(pb.ListRelationsRequest(), metadata=acme)
    found = await access.GetAuthorizationModel(pb.GetAuthorizationModelRequest(), metadata=acme)
    question = pb.CheckRelationRequest(user="user:anna", relation="editor", object="project:claims")
    checked = await access.CheckRelation(question, metadata=acme)
    assert (list(listed.relations), found.model, checked.allowed) == ([], SHIPPED_MODEL, False)


async def test_roles_alone_decide_until_something_is_written_about_a_type(
    face: Face, access: "AccessServiceAsyncStub"
) -> None:
    subject, user = await a_user(face)
    admin = await face.admin()
    asked = pb.AuthorizeCallerRequest(relation="editor", object="project:claims")
    assert (await access.AuthorizeCaller(asked, metadata=user)).allowed
    await access.WriteRelations(writing("user:anna admin organization:acme"), metadata=admin)
    assert (await access.AuthorizeCaller(asked, metadata=user)).allowed
    await access.WriteRelations(writing("user:anna editor project:other"), metadata=admin)
    answer = await access.AuthorizeCaller(asked, metadata=user)
    assert not answer.allowed
    assert answer.missing == (
        f"user:{subject} is not editor of project:claims; `user:{subject} editor project:claims` or "
        f"a parent of project:claims of which user:{subject} is admin would grant it"
    )
    assert (await access.AuthorizeCaller(asked, metadata=admin)).allowed
    await access.WriteRelations(writing(f"user:{subject} editor project:claims"), metadata=admin)
    assert (await access.AuthorizeCaller(asked, metadata=user)).allowed
    gone = writing(deletes=[f"user:{subject} editor project:claims", "user:anna editor project:other"])
    await access.WriteRelations(gone, metadata=admin)
    assert not (await access.AuthorizeCaller(asked, metadata=user)).allowed


async def test_what_cannot_stand_in_a_relation_is_nobodys(face: Face, access: "AccessServiceAsyncStub") -> None:
    _, user = await a_user(face)
    await access.WriteRelations(writing("user:anna editor project:other"), metadata=await face.admin())
    for relation, thing in (("editor", "project:my project"), ("owner", "project:claims")):
        asked = pb.AuthorizeCallerRequest(relation=relation, object=thing)
        answer = await access.AuthorizeCaller(asked, metadata=user)
        assert not answer.allowed
        assert answer.missing
    for relation, thing in (("", "project:claims"), ("editor", "claims")):
        asked = pb.AuthorizeCallerRequest(relation=relation, object=thing)
        code, _ = await refused(access.AuthorizeCaller(asked, metadata=user))
        assert code is grpc.StatusCode.INVALID_ARGUMENT


async def test_only_services_ask_about_their_callers(face: Face) -> None:
    asked = pb.AuthorizeCallerRequest(relation="editor", object="project:claims")
    async with grpc.aio.insecure_channel(face.gateway.target) as outside:
        call = AccessServiceStub(outside).AuthorizeCaller(asked, metadata=await face.admin())
        code, _ = await refused(call)
    assert code is grpc.StatusCode.PERMISSION_DENIED
