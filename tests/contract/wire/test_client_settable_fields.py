"""No request has a field by which a caller could give itself a tenant, a role, a state, an approval or an authorship.

The fields of all public requests are walked. A name that could mean one of these must stand below, with the reason why
a caller may set it, or as output only, with the test that sets it and sees it ignored or refused. A new RPC joins by
itself.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from tests.support.public_rpcs import PUBLIC

_ROOT: Final = Path(__file__).parents[3]
#: Words in names of fields that could mean who somebody is, what somebody may do, or how far a thing has come.
_TELLING: Final = frozenset(
    "tenant tenants tenancy role roles scope scopes permission permissions admin superuser subject principal actor "
    "issuer state status phase approver approvers approved approval approvals reviewer verified creator created author "
    "owner owners granted revoked suspended disabled digest revision create update write revoke grant secret peer "
    "signature".split()
)
#: Fields that callers set on purpose, each with what keeps that harmless.
SETTABLE: Final[Mapping[str, str]] = {
    "comitia.common.v1.BlobPart.owner": "which service keeps the blob; its reference is signed",
    "comitia.common.v1.CallContext.bundle_digest": "which rules a fork means; refused from all but the orchestrator",
    "comitia.common.v1.Message.role": "who speaks in a conversation, no role of a caller",
    "comitia.cost.v1.ListBudgetsRequest.scope": "a filter",
    "comitia.cost.v1.SetBudgetRequest.scope": "what of the tenant's own spending is limited; budgets.limit",
    "comitia.gateway.v1.CreateApiKeyRequest.roles": "only roles that the caller holds, see ROLE_NOT_HELD",
    "comitia.gateway.v1.CreateApiKeyRequest.scopes": "narrows what the roles grant, never widens it",
    "comitia.gateway.v1.CreateOidcIssuerRequest.default_roles": "only roles that the caller holds, see ROLE_NOT_HELD",
    "comitia.gateway.v1.CreateOidcIssuerRequest.issuer": "where people of the tenant sign in; users.write",
    "comitia.gateway.v1.CreateServiceAccountRequest.roles": "only roles that the caller holds, see ROLE_NOT_HELD",
    "comitia.gateway.v1.DeleteOidcIssuerRequest.oidc_issuer_id": "which of the tenant's own issuers; users.write",
    "comitia.gateway.v1.DeleteTenantRequest.tenant_id": "which tenant an operator means; tenants.write",
    "comitia.cost.v1.SetBudgetRequest.update_mask": "names terms of the budget; any other field is refused",
    "comitia.gateway.v1.ExchangeOidcTokenRequest.tenant": "whose issuer has signed the token, which is verified",
    "comitia.gateway.v1.GetErasureRequest.tenant_id": "which tenant an operator means; tenants.read",
    "comitia.gateway.v1.GetLoginOptionsRequest.tenant": "whose sign-in page; says nothing about who calls",
    "comitia.gateway.v1.GetTenantRequest.tenant_id": "which tenant an operator means; tenants.read",
    "comitia.gateway.v1.InviteUserRequest.roles": "only roles that the caller holds, see ROLE_NOT_HELD",
    "comitia.gateway.v1.ListAuditEntriesRequest.actor": "a filter",
    "comitia.gateway.v1.ResumeTenantRequest.tenant_id": "which tenant an operator means; tenants.write",
    "comitia.gateway.v1.SetUserRolesRequest.roles": "only roles that the caller holds, see ROLE_NOT_HELD",
    "comitia.gateway.v1.SuspendTenantRequest.tenant_id": "which tenant an operator means; tenants.write",
    "comitia.gateway.v1.Tenant.tenant_id": "which tenant an operator means; tenants.write",
    "comitia.gateway.v1.UpdateTenantRequest.tenant": "the tenant that an operator changes; tenants.write",
    "comitia.gateway.v1.UpdateTenantRequest.update_mask": "names fields; those that are output only are refused",
    "comitia.policy.v1.EvaluateRequest.subject": "what is judged, not who judges",
}
#: Fields of resources that a request carries along, and the test that sets them.
OUTPUT_ONLY: Final[Mapping[str, str]] = {
    "comitia.gateway.v1.RelationTuple.write_time": "tests/integration/gateway/test_access.py"
    "::test_when_a_relation_was_written_is_not_the_callers_to_say",
    "comitia.gateway.v1.Tenant.create_time": "tests/integration/gateway/test_output_only_fields.py"
    "::test_a_tenants_state_and_age_are_not_to_be_written",
    "comitia.gateway.v1.Tenant.state": "tests/integration/gateway/test_output_only_fields.py"
    "::test_a_tenants_state_and_age_are_not_to_be_written",
    "comitia.inference.v1.ModelRollout.decide_time": "tests/integration/inference/test_model_registry.py"
    "::test_what_a_rollout_says_of_its_course_is_ignored",
    "comitia.inference.v1.ModelRollout.decided_by": "tests/integration/inference/test_model_registry.py"
    "::test_what_a_rollout_says_of_its_course_is_ignored",
    "comitia.inference.v1.ModelRollout.evidence": "tests/integration/inference/test_model_registry.py"
    "::test_what_a_rollout_says_of_its_course_is_ignored",
    "comitia.inference.v1.ModelRollout.reason": "tests/integration/inference/test_model_registry.py"
    "::test_what_a_rollout_says_of_its_course_is_ignored",
    "comitia.inference.v1.ModelRollout.rollout_id": "tests/integration/inference/test_model_registry.py"
    "::test_what_a_rollout_says_of_its_course_is_ignored",
    "comitia.inference.v1.ModelRollout.share_permille": "tests/integration/inference/test_model_registry.py"
    "::test_what_a_rollout_says_of_its_course_is_ignored",
    "comitia.inference.v1.ModelRollout.start_time": "tests/integration/inference/test_model_registry.py"
    "::test_what_a_rollout_says_of_its_course_is_ignored",
    "comitia.inference.v1.ModelRollout.state": "tests/integration/inference/test_model_registry.py"
    "::test_what_a_rollout_says_of_its_course_is_ignored",
    "comitia.inference.v1.ModelVersion.check_failures": "tests/integration/inference/test_model_registry.py"
    "::test_what_a_version_says_of_its_making_is_ignored",
    "comitia.inference.v1.ModelVersion.create_time": "tests/integration/inference/test_model_registry.py"
    "::test_what_a_version_says_of_its_making_is_ignored",
    "comitia.inference.v1.ModelVersion.state": "tests/integration/inference/test_model_registry.py"
    "::test_what_a_version_says_of_its_making_is_ignored",
    "comitia.inference.v1.ModelVersion.version": "tests/integration/inference/test_model_registry.py"
    "::test_what_a_version_says_of_its_making_is_ignored",
    "comitia.orchestrator.v1.Agent.create_time": "tests/integration/orchestrator/test_sessions.py"
    "::test_what_an_agent_says_of_its_making_is_ignored",
    "comitia.orchestrator.v1.Agent.digest": "tests/integration/orchestrator/test_sessions.py"
    "::test_what_an_agent_says_of_its_making_is_ignored",
    "comitia.orchestrator.v1.Workflow.create_time": "tests/integration/orchestrator/test_workflows.py"
    "::test_what_a_workflow_says_of_its_making_is_ignored",
    "comitia.orchestrator.v1.Workflow.depth": "tests/integration/orchestrator/test_workflows.py"
    "::test_what_a_workflow_says_of_its_making_is_ignored",
    "comitia.orchestrator.v1.Workflow.digest": "tests/integration/orchestrator/test_workflows.py"
    "::test_what_a_workflow_says_of_its_making_is_ignored",
    "comitia.orchestrator.v1.Workflow.node_count": "tests/integration/orchestrator/test_workflows.py"
    "::test_what_a_workflow_says_of_its_making_is_ignored",
    "comitia.tools.v1.Tool.create_time": "tests/integration/tools/test_registry.py"
    "::test_what_a_tool_says_of_its_making_is_ignored",
    "comitia.tools.v1.Tool.digest": "tests/integration/tools/test_registry.py"
    "::test_what_a_tool_says_of_its_making_is_ignored",
    "comitia.tools.v1.Tool.forbidden": "tests/integration/tools/test_registry.py"
    "::test_what_a_tool_says_of_its_making_is_ignored",
    "comitia.tools.v1.Tool.tool_id": "tests/integration/tools/test_registry.py"
    "::test_what_a_tool_says_of_its_making_is_ignored",
}
#: How a contract says that a field is not the caller's.
_SAYS_SO: Final = re.compile("output only|ignored in requests", re.IGNORECASE)


def fields_of(message: Descriptor, seen: frozenset[str] = frozenset()) -> Iterator[FieldDescriptor]:
    """Every field that a message can carry, however deep."""
    if message.full_name in seen or not message.full_name.startswith("comitia."):
        return
    for field in message.fields:
        yield field
        if field.message_type is not None:
            yield from fields_of(field.message_type, seen | {message.full_name})


REQUESTED: Final = frozenset(field.full_name for rpc in PUBLIC for field in fields_of(rpc.method.input_type))


def comments() -> dict[str, str]:
    """What the contracts say about each field."""
    files = descriptor_pb2.FileDescriptorSet.FromString((_ROOT / "gen/descriptors/comitia.binpb").read_bytes())
    found: dict[str, str] = {}
    for file in files.file:
        for location in file.source_code_info.location:
            if len(location.path) == 4 and location.path[0] == 4 and location.path[2] == 2:
                message = file.message_type[location.path[1]]
                name = f"{file.package}.{message.name}.{message.field[location.path[3]].name}"
                found[name] = location.leading_comments
    return found


def is_telling(name: str) -> bool:
    return not _TELLING.isdisjoint(name.rpartition(".")[2].split("_"))


def test_no_field_makes_a_caller_somebody_else_or_a_thing_further_than_it_is() -> None:
    telling = {name for name in REQUESTED if is_telling(name)}
    unexplained = telling - SETTABLE.keys() - OUTPUT_ONLY.keys()
    assert not unexplained, (
        f"say in SETTABLE why callers may set them, or in OUTPUT_ONLY how they are ignored: {unexplained}"
    )


def test_what_the_contracts_call_output_only_is_proven_to_be() -> None:
    said = {name for name, comment in comments().items() if name in REQUESTED and _SAYS_SO.search(comment)}
    assert said, "the descriptor set has no comments"
    assert said <= OUTPUT_ONLY.keys(), f"say in OUTPUT_ONLY how they are ignored: {said - OUTPUT_ONLY.keys()}"


def test_the_lists_name_fields_and_tests_that_exist() -> None:
    assert SETTABLE.keys() | OUTPUT_ONLY.keys() <= REQUESTED
    assert not SETTABLE.keys() & OUTPUT_ONLY.keys()
    assert {name for name in SETTABLE if not is_telling(name)} == set()
    for proof in OUTPUT_ONLY.values():
        file, _, test = proof.partition("::")
        assert f"async def {test}(" in (_ROOT / file).read_text(encoding="utf-8"), proof
