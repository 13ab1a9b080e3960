"""Bundles on the wire: stored, found, made law, refused."""

from typing import Any

import pytest

from comitia.policy.v1 import policy_service_pb2 as pb
from services.meshkit.core.identity import Role, TenantId
from services.meshkit.core.ids import SystemIds
from tests.integration.policy.conftest import PolicyMesh
from tests.support.policy import CANARY, a_bundle, rules

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_fresh_tenant_has_law(mesh: PolicyMesh) -> None:
    verdict = await mesh.caller().evaluate("my number is 123-45-6789")
    assert verdict.bundle == "ground@1.0.0"
    assert verdict.allowed
    assert verdict.parts[0].text.text == "my number is [redacted:us_social_security_number]"
    (only,) = (await mesh.caller().bundles()).bundles
    assert (only.name, only.version, only.active) == ("ground", "1.0.0", True)
    assert only.digest == verdict.bundle_digest


async def test_a_bundle_is_law_as_soon_as_it_is_made(mesh: PolicyMesh) -> None:
    caller = mesh.caller()
    assert (await caller.evaluate(CANARY)).allowed
    bundle = await caller.create()
    assert (bundle.name, bundle.version, bundle.active, bundle.rule_count) == ("house", "1.0.0", True, 1)
    assert bundle.bundle_id.startswith("bundle_")
    assert bundle.source == a_bundle()
    verdict = await caller.evaluate(CANARY)
    assert not verdict.allowed
    assert (verdict.bundle, verdict.bundle_digest) == ("house@1.0.0", bundle.digest)


async def test_a_bundle_may_be_stored_without_being_law(mesh: PolicyMesh) -> None:
    caller = mesh.caller()
    assert not (await caller.create(keep_inactive=True)).active
    assert (await caller.evaluate(CANARY)).allowed
    assert (await caller.activate("house@1.0.0")).active
    assert not (await caller.evaluate(CANARY)).allowed
    assert (await caller.activate("ground@1.0.0")).active
    assert (await caller.evaluate(CANARY)).allowed


async def test_name_and_version_may_come_with_the_request(mesh: PolicyMesh) -> None:
    caller = mesh.caller()
    source = rules("name: a, type: keyword, keywords: [secret]")
    bundle = await caller.create(source, name="mine", version="2.10.0")
    assert (bundle.name, bundle.version) == ("mine", "2.10.0")
    refusal = await caller.refusal("CreateBundle", pb.CreateBundleRequest(source=a_bundle(), name="other"))
    assert (refusal.reason, "leave one of them out" in refusal.message) == ("INVALID_FIELD", True)
    missing: dict[str, Any]
    for missing in ({}, {"name": "mine"}, {"name": "mine", "version": "1"}, {"name": "a b", "version": "1.0.0"}):
        request = pb.CreateBundleRequest(source=source, **missing)
        assert await caller.refused("CreateBundle", request) == "invalid/INVALID_FIELD"


async def test_the_same_rules_are_the_same_version_and_others_are_refused(mesh: PolicyMesh) -> None:
    caller = mesh.caller()
    first = await caller.create()
    again = await caller.create(a_bundle() + "\n# laid out differently\n")
    assert (again.bundle_id, again.source) == (first.bundle_id, first.source)
    other = pb.CreateBundleRequest(source=a_bundle(keyword="something else"))
    assert await caller.refused("CreateBundle", other) == "exists/BUNDLE_VERSION_EXISTS"
    assert not (await caller.evaluate(CANARY)).allowed  # the refused one changed nothing
    assert (await caller.evaluate("something else")).allowed


async def test_the_shipped_bundle_cannot_be_replaced(mesh: PolicyMesh) -> None:
    caller = mesh.caller()
    own = pb.CreateBundleRequest(source=a_bundle(name="ground"))
    assert await caller.refused("CreateBundle", own) == "exists/BUNDLE_VERSION_EXISTS"
    newer = pb.CreateBundleRequest(source=a_bundle(name="ground", version="2.0.0"))
    assert await caller.refused("CreateBundle", newer) == "invalid/INVALID_FIELD"
    await caller.create()
    same = await caller.create((await caller.get("ground")).source)
    assert (same.name, same.active) == ("ground", True)
    assert (await caller.evaluate(CANARY)).bundle == "ground@1.0.0"


async def test_a_name_alone_means_the_active_else_the_highest_version(mesh: PolicyMesh) -> None:
    caller = mesh.caller()
    for version in ("1.9.0", "1.10.0", "1.2.0"):
        await caller.create(a_bundle(version=version), keep_inactive=True)
    assert (await caller.get("house")).version == "1.10.0"
    await caller.activate("house@1.2.0")
    assert (await caller.get("house")).version == "1.2.0"
    assert (await caller.get("house@1.9.0")).active is False
    assert (await caller.get("ground")).active is False
    assert await caller.refused("GetBundle", pb.GetBundleRequest(bundle="ground@9.0.0")) == "not_found/BUNDLE_NOT_FOUND"


async def test_bundles_are_listed_in_pages_the_shipped_one_first(mesh: PolicyMesh) -> None:
    caller = mesh.caller()
    for name, version in (("zeta", "1.0.0"), ("alpha", "1.10.0"), ("alpha", "1.9.0"), ("ground-ish", "1.0.0")):
        await caller.create(a_bundle(name=name, version=version), keep_inactive=name != "zeta")
    for size in (1, 2, 5, 50):
        seen: list[tuple[str, str, bool]] = []
        token = ""
        while True:
            page = await caller.bundles(page_size=size, page_token=token)
            seen += [(bundle.name, bundle.version, bundle.active) for bundle in page.bundles]
            assert not any(bundle.source for bundle in page.bundles)
            token = page.next_page_token
            if not token:
                break
        assert seen == [
            ("ground", "1.0.0", False),
            ("alpha", "1.9.0", False),
            ("alpha", "1.10.0", False),
            ("ground-ish", "1.0.0", False),
            ("zeta", "1.0.0", True),
        ]
    assert await caller.refused("ListBundles", pb.ListBundlesRequest(page_size=-1)) == "invalid/INVALID_FIELD"
    assert await caller.refused("ListBundles", pb.ListBundlesRequest(page_token="x")) == "invalid/INVALID_FIELD"


async def test_another_tenants_bundle_does_not_exist(mesh: PolicyMesh) -> None:
    await mesh.caller().create()
    stranger = mesh.caller(tenant=TenantId(SystemIds().uuid()))
    for method, request in (
        ("GetBundle", pb.GetBundleRequest(bundle="house@1.0.0")),
        ("GetBundle", pb.GetBundleRequest(bundle="house")),
        ("ActivateBundle", pb.ActivateBundleRequest(bundle="house@1.0.0")),
    ):
        assert await stranger.refused(method, request) == "not_found/BUNDLE_NOT_FOUND"
    assert [bundle.name for bundle in (await stranger.bundles()).bundles] == ["ground"]
    assert (await stranger.evaluate(CANARY)).allowed


@pytest.mark.parametrize("reference", ["", "a b", "house@", "house@1", "house@1.0.0@2", "a" * 64])
async def test_a_malformed_reference_is_refused(mesh: PolicyMesh, reference: str) -> None:
    activation = pb.ActivateBundleRequest(bundle=reference)
    assert await mesh.caller().refused("ActivateBundle", activation) == "invalid/INVALID_FIELD"


async def test_an_activation_names_a_version(mesh: PolicyMesh) -> None:
    await mesh.caller().create()
    activation = pb.ActivateBundleRequest(bundle="house")
    assert await mesh.caller().refused("ActivateBundle", activation) == "invalid/INVALID_FIELD"


async def test_a_pattern_that_re2_refuses_is_named(mesh: PolicyMesh) -> None:
    source = "name: mine\nversion: 1.0.0\n" + rules("name: ahead, type: regex, pattern: 'x(?=y)'")
    refusal = await mesh.caller().refusal("CreateBundle", pb.CreateBundleRequest(source=source))
    assert (refusal.kind.value, refusal.reason) == ("invalid", "REGEX_REFUSED")
    assert refusal.metadata["rule"] == "ahead"
    assert refusal.metadata["line"] == "4"
    assert "(?=" in refusal.message
    assert (await mesh.caller().bundles()).bundles[0].active  # nothing was stored


@pytest.mark.parametrize("source", ["", "# nothing", "name: a\nversion: 1.0.0\n", "{}", "rules: []", "rules:"])
async def test_a_bundle_without_rules_is_refused(mesh: PolicyMesh, source: str) -> None:
    request = pb.CreateBundleRequest(name="mine", version="1.0.0", source=source)
    assert await mesh.caller().refused("CreateBundle", request) == "invalid/BUNDLE_EMPTY"


async def test_a_source_that_is_too_large_is_refused(mesh: PolicyMesh) -> None:
    large = pb.CreateBundleRequest(source=a_bundle() + "#" * (300 * 1024))
    refusal = await mesh.caller().refusal("CreateBundle", large)
    assert (refusal.reason, "262144" in refusal.message) == ("INVALID_FIELD", True)
    huge = pb.CreateBundleRequest(source=a_bundle() + "#" * (5 * 1024 * 1024))
    assert (await mesh.caller().refusal("CreateBundle", huge)).reason == "REQUEST_TOO_LARGE"
    assert (await mesh.caller().bundles()).bundles[0].active


async def test_permissions_are_those_of_the_guard(mesh: PolicyMesh) -> None:
    auditor = mesh.caller(Role.AUDITOR)
    assert (await auditor.get("ground")).rule_count > 0
    create = pb.CreateBundleRequest(source=a_bundle())
    assert await auditor.refused("CreateBundle", create) == "denied/PERMISSION_MISSING"
    assert await mesh.caller(Role.TENANT_USER).refused("CreateBundle", create) == "denied/PERMISSION_MISSING"
    activate = pb.ActivateBundleRequest(bundle="ground@1.0.0")
    assert await auditor.refused("ActivateBundle", activate) == "denied/PERMISSION_MISSING"
