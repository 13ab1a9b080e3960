"""Law and what broke it."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import cast

from comitia.common.v1 import content_pb2
from comitia.policy.v1 import policy_pb2, policy_service_pb2, policy_service_pb2_grpc
from comitia_sdk.connection import Connection
from comitia_sdk.enums import number_of
from comitia_sdk.resume import resumed


class AsyncPolicies:
    """Law: bundles of rules, and what broke them."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._law = policy_service_pb2_grpc.PolicyServiceStub(connection.channel)
        self._bundles = policy_service_pb2_grpc.BundleServiceStub(connection.channel)
        self._violations = policy_service_pb2_grpc.ViolationServiceStub(connection.channel)

    async def apply(
        self, source: str, *, name: str = "", version: str = "", keep_inactive: bool = False
    ) -> policy_pb2.Bundle:
        """Stores rules (YAML or JSON) as a bundle and makes it law. Raises: InvalidRequest, AlreadyExists."""
        request = policy_service_pb2.CreateBundleRequest(
            name=name, version=version, source=source, keep_inactive=keep_inactive
        )
        return (await self._connection.call(self._bundles.CreateBundle, request)).bundle

    async def get(self, bundle: str) -> policy_pb2.Bundle:
        """Fetches a bundle by `name` or `name@version`. Raises: NotFound."""
        request = policy_service_pb2.GetBundleRequest(bundle=bundle)
        return (await self._connection.call(self._bundles.GetBundle, request)).bundle

    async def activate(self, bundle: str) -> policy_pb2.Bundle:
        """Makes a stored bundle law. Raises: NotFound."""
        request = policy_service_pb2.ActivateBundleRequest(bundle=bundle)
        return (await self._connection.call(self._bundles.ActivateBundle, request)).bundle

    async def list(self, *, page_size: int = 0) -> AsyncGenerator[policy_pb2.Bundle]:
        """Gives all bundles."""
        request = policy_service_pb2.ListBundlesRequest(page_size=page_size)
        async for page in self._connection.pages(self._bundles.ListBundles, request):
            for bundle in page.bundles:
                yield bundle

    async def violations(
        self, *, run_id: str = "", rule: str = "", page_size: int = 0
    ) -> AsyncGenerator[policy_pb2.Violation]:
        """Gives violations, newest first."""
        request = policy_service_pb2.ListViolationsRequest(run_id=run_id, rule=rule, page_size=page_size)
        async for page in self._connection.pages(self._violations.ListViolations, request):
            for violation in page.violations:
                yield violation

    async def watch_violations(
        self, *, after_sequence: int = 0, run_id: str = ""
    ) -> AsyncGenerator[policy_pb2.Violation]:
        """Gives violations as they are recorded, without end; a broken stream is taken up where it broke."""

        def open_after(sequence: int) -> AsyncGenerator[policy_service_pb2.WatchViolationsResponse]:
            request = policy_service_pb2.WatchViolationsRequest(after_sequence=sequence, run_id=run_id)
            return self._connection.stream(self._violations.WatchViolations, request)

        async def over(_sequence: int) -> bool:
            return False

        following = resumed(open_after, after_sequence, recorded=lambda _: True, last=lambda _: False, over=over)
        async with aclosing(following) as events:
            async for event in events:
                yield event.violation

    async def evaluate(
        self, text: str, *, operation: str = "generate", stage: str = "before", target: str = ""
    ) -> policy_pb2.Verdict:
        """Judges a text under the law. A verdict that blocks is an answer, not an error.

        Args:
            operation: generate, invoke_tool or remember.
            stage: before, during or after.
            target: name of the tool or model. Optional.
        """
        subject = policy_pb2.Subject(
            operation=cast(
                policy_pb2.Operation.ValueType, number_of(policy_pb2.Operation, operation, field="operation")
            ),
            stage=cast(policy_pb2.Stage.ValueType, number_of(policy_pb2.Stage, stage, field="stage")),
            parts=[content_pb2.Part(text=content_pb2.TextPart(text=text))],
            target=target,
        )
        request = policy_service_pb2.EvaluateRequest(subject=subject)
        return (await self._connection.call(self._law.Evaluate, request)).verdict
