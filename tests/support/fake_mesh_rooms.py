"""The smaller rooms of the fake mesh: who calls, law, money, models, memory, tools, health."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from comitia.common.v1 import content_pb2, usage_pb2
from comitia.cost.v1 import (
    budget_service_pb2,
    cost_pb2,
    ledger_service_pb2,
    price_list_pb2,
    pricing_service_pb2,
    rollup_pb2,
)
from comitia.gateway.v1 import (
    identity_pb2,
    identity_service_pb2,
    status_service_pb2,
)
from comitia.inference.v1 import generation_pb2, inference_service_pb2, model_pb2, model_service_pb2
from comitia.memory.v1 import memory_service_pb2
from comitia.policy.v1 import policy_pb2, policy_service_pb2
from comitia.tools.v1 import tool_service_pb2
from services.meshkit.core.errors import ErrorKind, Invalid, MeshError, NotFound
from services.meshkit.core.paging import clamp_page_size, decode_page_token, encode_page_token

Row = TypeVar("Row")
NOON = Timestamp(seconds=1_750_000_000)


def one_page(rows: Sequence[Row], request: Any) -> tuple[list[Row], str]:
    """Cuts a page out of a list. Returns it and the token of the next one."""
    size = clamp_page_size(request.page_size)
    place = decode_page_token(request.page_token, int)
    start = int(place[0]) if place else 0
    more = start + size < len(rows)
    return list(rows[start : start + size]), encode_page_token(start + size) if more else ""


class Refused(MeshError):
    """A refusal as the mesh would make it."""

    reason = "REFUSED"

    def __init__(
        self,
        kind: ErrorKind,
        reason: str,
        message: str,
        *,
        field: str | None = None,
        retry_after: timedelta | None = None,
        **metadata: object,
    ) -> None:
        super().__init__(message, field=field, retry_after=retry_after, **metadata)
        self.__dict__["kind"] = kind
        self.__dict__["reason"] = reason


@dataclass(slots=True)
class Identity:
    """API keys, service accounts and tokens."""

    keys: dict[str, list[str]]
    give_token: Callable[[], tuple[str, float]]
    #: Of the caller, when it is a person.
    email: str = ""
    made: list[identity_pb2.ApiKey] = field(default_factory=list[identity_pb2.ApiKey])
    accounts: list[identity_pb2.ServiceAccount] = field(default_factory=list[identity_pb2.ServiceAccount])

    def ExchangeApiKey(self, request: Any, _context: Any) -> identity_service_pb2.ExchangeApiKeyResponse:
        if request.api_key not in self.keys:
            raise Refused(ErrorKind.UNAUTHENTICATED, "API_KEY_INVALID", "the API key is unknown, expired or revoked")
        token, end = self.give_token()
        return identity_service_pb2.ExchangeApiKeyResponse(access_token=token, expire_time=Timestamp(seconds=int(end)))

    def WhoAmI(self, _request: Any, _context: Any) -> identity_service_pb2.WhoAmIResponse:
        return identity_service_pb2.WhoAmIResponse(
            tenant_id="tenant_1",
            subject="key_1",
            email=self.email,
            roles=[identity_pb2.ROLE_ADMIN, identity_pb2.ROLE_OPERATOR],
        )

    def CreateApiKey(self, request: Any, _context: Any) -> identity_service_pb2.CreateApiKeyResponse:
        if not request.display_name:
            raise Invalid("display_name", "must be 1 to 100 characters")
        key = identity_pb2.ApiKey(
            api_key_id=f"key_{len(self.made) + 2}",
            display_name=request.display_name,
            roles=request.roles,
            project=request.project,
            scopes=request.scopes,
            service_account_id=request.service_account_id,
            expire_time=request.expire_time if request.HasField("expire_time") else None,
            create_time=NOON,
        )
        secret = f"ck_{len(self.made) + 2}_made"
        self.made.insert(0, key)
        self.keys[secret] = []
        return identity_service_pb2.CreateApiKeyResponse(api_key=key, secret=secret)

    def ListApiKeys(self, request: Any, _context: Any) -> identity_service_pb2.ListApiKeysResponse:
        page, token = one_page(self.made, request)
        return identity_service_pb2.ListApiKeysResponse(api_keys=page, next_page_token=token)

    def RevokeApiKey(self, request: Any, _context: Any) -> identity_service_pb2.RevokeApiKeyResponse:
        for key in self.made:
            if key.api_key_id == request.api_key_id:
                key.revoke_time.CopyFrom(NOON)
                return identity_service_pb2.RevokeApiKeyResponse(api_key=key)
        raise NotFound("API key", request.api_key_id)

    def RotateApiKey(self, request: Any, _context: Any) -> identity_service_pb2.RotateApiKeyResponse:
        for key in self.made:
            if key.api_key_id == request.api_key_id:
                if request.overlap_seconds:
                    key.previous_secret_expire_time.FromSeconds(NOON.seconds + request.overlap_seconds)
                secret = f"ck_{request.api_key_id}_rotated"
                self.keys[secret] = []
                return identity_service_pb2.RotateApiKeyResponse(api_key=key, secret=secret)
        raise NotFound("API key", request.api_key_id)

    def CreateServiceAccount(self, request: Any, _context: Any) -> identity_service_pb2.CreateServiceAccountResponse:
        account = identity_pb2.ServiceAccount(
            service_account_id=f"svc_{len(self.accounts) + 1}",
            display_name=request.display_name,
            roles=request.roles,
            project=request.project,
            create_time=NOON,
        )
        self.accounts.insert(0, account)
        return identity_service_pb2.CreateServiceAccountResponse(service_account=account)

    def ListServiceAccounts(self, request: Any, _context: Any) -> identity_service_pb2.ListServiceAccountsResponse:
        page, token = one_page(self.accounts, request)
        return identity_service_pb2.ListServiceAccountsResponse(service_accounts=page, next_page_token=token)

    def DisableServiceAccount(self, request: Any, _context: Any) -> identity_service_pb2.DisableServiceAccountResponse:
        for account in self.accounts:
            if account.service_account_id == request.service_account_id:
                account.disable_time.CopyFrom(NOON)
                return identity_service_pb2.DisableServiceAccountResponse(service_account=account)
        raise NotFound("service account", request.service_account_id)

    def GetKeySet(self, _request: Any, _context: Any) -> identity_service_pb2.GetKeySetResponse:
        key = identity_service_pb2.GetKeySetResponse.Key(kid="access-1", kty="OKP", crv="Ed25519", alg="EdDSA", x="AA")
        return identity_service_pb2.GetKeySetResponse(keys=[key])

    def RotateSigningKey(self, _request: Any, _context: Any) -> identity_service_pb2.RotateSigningKeyResponse:
        return identity_service_pb2.RotateSigningKeyResponse(key_id="access-2", sign_time=NOON)


@dataclass(slots=True)
class Law:
    """One bundle is law; the word `secret` breaks it."""

    bundles: list[policy_pb2.Bundle] = field(
        default_factory=lambda: [
            policy_pb2.Bundle(
                bundle_id="bundle_1", name="ground", version="1.0.0", digest="ab12", rule_count=1, active=True
            )
        ]
    )
    found: list[policy_pb2.Violation] = field(default_factory=list[policy_pb2.Violation])

    def CreateBundle(self, request: Any, _context: Any) -> policy_service_pb2.CreateBundleResponse:
        if not request.source.strip():
            raise Invalid("source", "holds no rules")
        bundle = policy_pb2.Bundle(
            bundle_id=f"bundle_{len(self.bundles) + 1}",
            name=request.name or "mine",
            version=request.version or "1.0.0",
            source=request.source,
            rule_count=1,
            active=not request.keep_inactive,
            create_time=NOON,
        )
        self.bundles.append(bundle)
        return policy_service_pb2.CreateBundleResponse(bundle=bundle)

    def _bundle(self, name: str) -> policy_pb2.Bundle:
        for bundle in self.bundles:
            if name in (bundle.name, f"{bundle.name}@{bundle.version}"):
                return bundle
        raise NotFound("bundle", name)

    def GetBundle(self, request: Any, _context: Any) -> policy_service_pb2.GetBundleResponse:
        return policy_service_pb2.GetBundleResponse(bundle=self._bundle(request.bundle))

    def ActivateBundle(self, request: Any, _context: Any) -> policy_service_pb2.ActivateBundleResponse:
        bundle = self._bundle(request.bundle)
        for other in self.bundles:
            other.active = other is bundle
        return policy_service_pb2.ActivateBundleResponse(bundle=bundle)

    def ListBundles(self, request: Any, _context: Any) -> policy_service_pb2.ListBundlesResponse:
        page, token = one_page(self.bundles, request)
        return policy_service_pb2.ListBundlesResponse(bundles=page, next_page_token=token)

    def Evaluate(self, request: Any, _context: Any) -> policy_service_pb2.EvaluateResponse:
        text = request.subject.parts[0].text.text
        result = policy_pb2.RuleResult(rule="no_secrets", severity=policy_pb2.SEVERITY_SEVERE)
        if "secret" in text:
            result.action, result.rationale = policy_pb2.ACTION_BLOCK, "names a secret"
        verdict = policy_pb2.Verdict(
            verdict_id="verdict_1", allowed=not result.action, results=[result], bundle="ground@1.0.0"
        )
        return policy_service_pb2.EvaluateResponse(verdict=verdict)

    def ListViolations(self, request: Any, _context: Any) -> policy_service_pb2.ListViolationsResponse:
        rows = [
            one for one in reversed(self.found) if request.run_id in ("", one.run_id) and request.rule in ("", one.rule)
        ]
        page, token = one_page(rows, request)
        return policy_service_pb2.ListViolationsResponse(violations=page, next_page_token=token)

    def WatchViolations(self, request: Any, _context: Any) -> Iterator[policy_service_pb2.WatchViolationsResponse]:
        for one in self.found:
            if one.sequence > request.after_sequence:
                yield policy_service_pb2.WatchViolationsResponse(sequence=one.sequence, violation=one)


@dataclass(slots=True)
class Money:
    """The tenant's budget and a few charges."""

    budgets: list[cost_pb2.Budget] = field(
        default_factory=lambda: [
            cost_pb2.Budget(
                budget_id="budget_1",
                scope=cost_pb2.BUDGET_SCOPE_TENANT,
                limit_nano_usd=10_000_000_000,
                spent_nano_usd=123_000,
            )
        ]
    )
    #: Those that spent, dearest first; "" stands for calls of none.
    projects: list[str] = field(default_factory=lambda: ["atlas", "", "web"])
    alerts: list[cost_pb2.BudgetAlert] = field(default_factory=list[cost_pb2.BudgetAlert])
    events: list[cost_pb2.CostEvent] = field(default_factory=list[cost_pb2.CostEvent])
    #: Charges without a price.
    unpriced: int = 0
    unknown_price: price_list_pb2.UnknownPrice = field(
        default_factory=lambda: price_list_pb2.UnknownPrice(
            rule=price_list_pb2.UNKNOWN_PRICE_RULE_REFUSE, least_ceiling_nano_usd_per_million=600_000_000_000
        )
    )

    def GetBudget(self, request: Any, _context: Any) -> budget_service_pb2.GetBudgetResponse:
        return budget_service_pb2.GetBudgetResponse(budget=self._budget(request.budget_id))

    def _budget(self, budget_id: str) -> cost_pb2.Budget:
        for budget in self.budgets:
            own = budget.scope == cost_pb2.BUDGET_SCOPE_TENANT
            kind = cost_pb2.BudgetScope.Name(budget.scope).removeprefix("BUDGET_SCOPE_").lower()
            if budget_id in (budget.budget_id, "tenant" if own else f"{kind}:{budget.name}"):
                return budget
        raise NotFound("budget", budget_id)

    def ListBudgets(self, request: Any, _context: Any) -> budget_service_pb2.ListBudgetsResponse:
        page, token = one_page(self.budgets, request)
        return budget_service_pb2.ListBudgetsResponse(budgets=page, next_page_token=token)

    def GetBudgetStatus(self, request: Any, _context: Any) -> budget_service_pb2.GetBudgetStatusResponse:
        budget = self._budget(request.budget_id)
        left = budget.limit_nano_usd - budget.spent_nano_usd
        return budget_service_pb2.GetBudgetStatusResponse(
            budget=budget, level=cost_pb2.BUDGET_LEVEL_OK, left_nano_usd=left, hold_count=2
        )

    def GetBudgetTree(self, _request: Any, _context: Any) -> budget_service_pb2.GetBudgetTreeResponse:
        nodes = [
            budget_service_pb2.GetBudgetTreeResponse.Node(budget=budget, depth=depth)
            for depth, budget in ((int(place > 0), budget) for place, budget in enumerate(self.budgets))
        ]
        return budget_service_pb2.GetBudgetTreeResponse(nodes=nodes, more_runs=True)

    def ListBudgetAlerts(self, request: Any, _context: Any) -> budget_service_pb2.ListBudgetAlertsResponse:
        wanted = self._budget(request.budget_id).budget_id if request.budget_id else ""
        found = [alert for alert in self.alerts if wanted in ("", alert.budget.budget_id)]
        page, token = one_page(found, request)
        return budget_service_pb2.ListBudgetAlertsResponse(alerts=page, next_page_token=token)

    def SetBudget(self, request: Any, _context: Any) -> budget_service_pb2.SetBudgetResponse:
        known = [one for one in self.budgets if (one.scope, one.name) == (request.scope, request.name)]
        made = known[0] if known else cost_pb2.Budget(scope=request.scope, name=request.name, warn_at_percent=80)
        for path in request.update_mask.paths:
            if path == "limit_tokens":
                made.tokens.ClearField("limit")
                if request.HasField(path):
                    made.tokens.limit = request.limit_tokens
            elif path == "warn_at_percent":
                made.warn_at_percent = request.warn_at_percent or 80
            else:
                setattr(made, path, getattr(request, path))
        if not known:
            made.budget_id = f"budget_{len(self.budgets) + 1}"
            self.budgets.append(made)
        return budget_service_pb2.SetBudgetResponse(budget=made)

    def RemoveBudget(self, request: Any, _context: Any) -> budget_service_pb2.RemoveBudgetResponse:
        budget = self._budget(request.budget_id)
        self.budgets.remove(budget)
        return budget_service_pb2.RemoveBudgetResponse(budget=budget)

    def SetBudgetLimit(self, request: Any, _context: Any) -> budget_service_pb2.SetBudgetLimitResponse:
        budget = self._budget(request.budget_id)
        budget.limit_nano_usd = request.limit_nano_usd
        return budget_service_pb2.SetBudgetLimitResponse(budget=budget)

    def GetCostSummary(self, request: Any, _context: Any) -> ledger_service_pb2.GetCostSummaryResponse:
        if request.project not in ("", *self.projects):
            return ledger_service_pb2.GetCostSummaryResponse()
        if request.by == ledger_service_pb2.COST_DIMENSION_PROJECT:
            keys = self.projects[: request.max_lines or None]
            return ledger_service_pb2.GetCostSummaryResponse(
                lines=[ledger_service_pb2.GetCostSummaryResponse.Line(key=key, event_count=1) for key in keys],
                event_count=len(self.projects),
            )
        line = ledger_service_pb2.GetCostSummaryResponse.Line(
            key="gpt-4o-mini",
            event_count=4,
            usage=usage_pb2.Usage(input_tokens=100, cache_read_tokens=900, output_tokens=50),
            cost_nano_usd=123_000,
        )
        line.unpriced_event_count, line.unpriced_nano_usd = self.unpriced, self.unpriced * 1_000
        return ledger_service_pb2.GetCostSummaryResponse(
            lines=[line],
            total_nano_usd=123_000,
            event_count=4,
            unpriced_event_count=self.unpriced,
            unpriced_nano_usd=self.unpriced * 1_000,
        )

    def GetCostSeries(self, request: Any, _context: Any) -> ledger_service_pb2.GetCostSeriesResponse:
        begin = Timestamp(seconds=1_767_225_600)
        points = [rollup_pb2.CostPoint(start_time=begin, event_count=4, cost_nano_usd=123_000)]
        line = rollup_pb2.CostSeries(key="gpt-4o-mini", points=points, total_nano_usd=123_000)
        return ledger_service_pb2.GetCostSeriesResponse(
            lines=[line], start_time=begin, step=request.step, total_nano_usd=123_000
        )

    def ExportCosts(self, request: Any, _context: Any) -> Iterator[ledger_service_pb2.ExportCostsResponse]:
        for piece in (b"start_time,project", b",cost_nano_usd\r\n"):
            yield ledger_service_pb2.ExportCostsResponse(data=piece)

    def RepriceEvents(self, request: Any, _context: Any) -> ledger_service_pb2.RepriceEventsResponse:
        model = price_list_pb2.RepricedModel(
            provider="openai", model="gpt-4o-mini", event_count=4, before_nano_usd=123_000, after_nano_usd=100_000
        )
        return ledger_service_pb2.RepriceEventsResponse(
            models=[model], event_count=4, before_nano_usd=123_000, after_nano_usd=100_000
        )

    def ImportPrices(self, request: Any, _context: Any) -> pricing_service_pb2.ImportPricesResponse:
        if "gpt" not in request.content:
            raise Invalid("content", "line 2, model: is required")
        if "1000" in request.content and not request.confirm_unit:
            raise Invalid("content", "line 2, input: is far off; say confirm_unit (--confirm-unit)")
        change = price_list_pb2.PriceChange(after=[cost_pb2.Price(provider="openai", model="gpt-4o-mini")])
        return pricing_service_pb2.ImportPricesResponse(changes=[change], change_count=1, unchanged_count=2)

    def GetUnknownPrice(self, _request: Any, _context: Any) -> pricing_service_pb2.GetUnknownPriceResponse:
        return pricing_service_pb2.GetUnknownPriceResponse(unknown_price=self.unknown_price)

    def SetUnknownPrice(self, request: Any, _context: Any) -> pricing_service_pb2.SetUnknownPriceResponse:
        flags = request.rule == price_list_pb2.UNKNOWN_PRICE_RULE_FLAG
        least = self.unknown_price.least_ceiling_nano_usd_per_million
        ceiling = request.ceiling_nano_usd_per_million or least
        self.unknown_price.rule = request.rule
        self.unknown_price.ceiling_nano_usd_per_million = ceiling if flags else 0
        return pricing_service_pb2.SetUnknownPriceResponse(unknown_price=self.unknown_price)

    def ListCostEvents(self, request: Any, _context: Any) -> ledger_service_pb2.ListCostEventsResponse:
        page, token = one_page(self.events, request)
        return ledger_service_pb2.ListCostEventsResponse(cost_events=page, next_page_token=token)

    def ListPrices(self, request: Any, _context: Any) -> pricing_service_pb2.ListPricesResponse:
        aliases = ["gpt-4o-mini-2024-07-18", "4o-mini"]
        page, token = one_page([cost_pb2.Price(provider="openai", model="gpt-4o-mini", aliases=aliases)], request)
        return pricing_service_pb2.ListPricesResponse(prices=page, next_page_token=token)


@dataclass(slots=True)
class Models:
    """One model in the chain, and the stub by name."""

    deployments: list[model_pb2.ModelDeployment] = field(
        default_factory=lambda: [
            model_pb2.ModelDeployment(
                name="openai/gpt-4o-mini",
                adapter="openai",
                task=model_pb2.MODEL_TASK_GENERATE,
                in_default_chain=True,
                priced=True,
            ),
            model_pb2.ModelDeployment(name="stub", adapter="stub", task=model_pb2.MODEL_TASK_GENERATE),
            model_pb2.ModelDeployment(
                name="acme/mini",
                task=model_pb2.MODEL_TASK_GENERATE,
                deployment_id="dep_2",
                versions=[model_pb2.ModelVersion(version=2, state=model_pb2.MODEL_VERSION_STATE_READY)],
            ),
        ]
    )

    def ListModels(self, _request: Any, _context: Any) -> model_service_pb2.ListModelsResponse:
        return model_service_pb2.ListModelsResponse(models=self.deployments)

    def CreateModelDeployment(self, request: Any, _context: Any) -> model_service_pb2.CreateModelDeploymentResponse:
        version = model_pb2.ModelVersion(version=1, state=model_pb2.MODEL_VERSION_STATE_CHECKING)
        version.MergeFrom(request.version)
        made = model_pb2.ModelDeployment(name=request.name, deployment_id="dep_1", versions=[version])
        return model_service_pb2.CreateModelDeploymentResponse(deployment=made)

    def GetModelDeployment(self, _request: Any, _context: Any) -> model_service_pb2.GetModelDeploymentResponse:
        failures = ["PROVIDER_REFUSED: the key is wrong"]
        state = model_pb2.MODEL_VERSION_STATE_REFUSED
        refused = model_pb2.ModelVersion(version=1, state=state, check_failures=failures)
        [found] = [one for one in self.deployments if one.deployment_id]
        whole = model_pb2.ModelDeployment(versions=[*found.versions, refused])
        whole.MergeFrom(model_pb2.ModelDeployment(name=found.name, deployment_id="dep_2", priced=True))
        return model_service_pb2.GetModelDeploymentResponse(deployment=whole)

    def RetireModelDeployment(self, _request: Any, _context: Any) -> model_service_pb2.RetireModelDeploymentResponse:
        [found] = [one for one in self.deployments if one.deployment_id]
        return model_service_pb2.RetireModelDeploymentResponse(deployment=found)

    def ListModelHealth(self, _request: Any, _context: Any) -> model_service_pb2.ListModelHealthResponse:
        ill = model_pb2.ModelHealth(
            deployment="acme/mini",
            version=2,
            breaker=model_pb2.BREAKER_STATE_OPEN,
            last_failure="PROVIDER_UNAVAILABLE",
            p50_us=250_000,
        )
        return model_service_pb2.ListModelHealthResponse(health=[ill])

    def ListModelRoutes(self, request: Any, _context: Any) -> model_service_pb2.ListModelRoutesResponse:
        members = [model_pb2.RouteMember(deployment="acme/mini", weight_permille=900)]
        route = model_pb2.ModelRoute(name="writer", mode=model_pb2.ROUTE_MODE_WEIGHTED, members=members)
        page, token = one_page([route], request)
        return model_service_pb2.ListModelRoutesResponse(routes=page, next_page_token=token)

    def DeleteModelRoute(self, _request: Any, _context: Any) -> model_service_pb2.DeleteModelRouteResponse:
        return model_service_pb2.DeleteModelRouteResponse()

    def ListModelRollouts(self, request: Any, _context: Any) -> model_service_pb2.ListModelRolloutsResponse:
        found = model_pb2.ModelRollout(
            rollout_id="rollout_1", route="writer", state=model_pb2.ROLLOUT_STATE_ROLLED_BACK, reason="errors"
        )
        page, token = one_page([found], request)
        return model_service_pb2.ListModelRolloutsResponse(rollouts=page, next_page_token=token)

    def CheckModelVersion(self, request: Any, _context: Any) -> model_service_pb2.CheckModelVersionResponse:
        version = model_pb2.ModelVersion(version=request.version, state=model_pb2.MODEL_VERSION_STATE_READY)
        return model_service_pb2.CheckModelVersionResponse(version=version)

    def SetModelRoute(self, request: Any, _context: Any) -> model_service_pb2.SetModelRouteResponse:
        return model_service_pb2.SetModelRouteResponse(route=request.route)

    def GetModelComparison(self, request: Any, _context: Any) -> model_service_pb2.GetModelComparisonResponse:
        compared = model_pb2.ModelComparison(
            shadow="acme/next@2",
            pairs=40,
            same_form_permille=975,
            similarity=0.5,
            skipped=2,
            route_side=model_pb2.ComparedSide(latency_us=800_000, cost_nano_usd=1_000_000, characters=120),
            shadow_side=model_pb2.ComparedSide(failed=1, latency_us=400_000, cost_nano_usd=250_000, characters=100),
        )
        return model_service_pb2.GetModelComparisonResponse(comparisons=[compared])

    def ReportModelQuality(self, request: Any, _context: Any) -> model_service_pb2.ReportModelQualityResponse:
        return model_service_pb2.ReportModelQualityResponse()

    def GetModelRoute(self, request: Any, _context: Any) -> model_service_pb2.GetModelRouteResponse:
        members = [model_pb2.RouteMember(deployment="openai/gpt-4o-mini")]
        return model_service_pb2.GetModelRouteResponse(route=model_pb2.ModelRoute(name=request.name, members=members))

    def StartModelRollout(self, request: Any, _context: Any) -> model_service_pb2.StartModelRolloutResponse:
        started = model_pb2.ModelRollout(
            rollout_id="rollout_1", state=model_pb2.ROLLOUT_STATE_RUNNING, share_permille=100
        )
        started.MergeFrom(request.rollout)
        return model_service_pb2.StartModelRolloutResponse(rollout=started)

    def GetModelRollout(self, request: Any, _context: Any) -> model_service_pb2.GetModelRolloutResponse:
        evidence = model_pb2.RolloutEvidence(metric="errors", canary_events=3, stable_events=1, e_value=120)
        found = model_pb2.ModelRollout(rollout_id=request.rollout_id, evidence=[evidence])
        return model_service_pb2.GetModelRolloutResponse(rollout=found)

    def PromoteModelRollout(self, request: Any, _context: Any) -> model_service_pb2.PromoteModelRolloutResponse:
        done = model_pb2.ModelRollout(rollout_id=request.rollout_id, state=model_pb2.ROLLOUT_STATE_PROMOTED)
        return model_service_pb2.PromoteModelRolloutResponse(rollout=done)

    def RollBackModelRollout(self, request: Any, _context: Any) -> model_service_pb2.RollBackModelRolloutResponse:
        done = model_pb2.ModelRollout(rollout_id=request.rollout_id, state=model_pb2.ROLLOUT_STATE_ROLLED_BACK)
        return model_service_pb2.RollBackModelRolloutResponse(rollout=done)

    def Generate(self, request: Any, _context: Any) -> inference_service_pb2.GenerateResponse:
        return inference_service_pb2.GenerateResponse(generation=_generation(f"heard: {_prompt(request)}"))

    def StreamGenerate(self, request: Any, _context: Any) -> Iterator[inference_service_pb2.StreamGenerateResponse]:
        for number, piece in enumerate(("heard: ", _prompt(request)), start=1):
            yield inference_service_pb2.StreamGenerateResponse(sequence=number, text_delta=piece)
        whole = _generation(f"heard: {_prompt(request)}")
        yield inference_service_pb2.StreamGenerateResponse(sequence=3, generation=whole)

    def CountTokens(self, request: Any, _context: Any) -> inference_service_pb2.CountTokensResponse:
        return inference_service_pb2.CountTokensResponse(input_tokens_bound=len(_prompt(request)))

    def Embed(self, request: Any, _context: Any) -> inference_service_pb2.EmbedResponse:
        vectors = [generation_pb2.Embedding(values=[1.0, 0.0]) for _ in request.texts]
        return inference_service_pb2.EmbedResponse(embeddings=vectors)


def _prompt(request: Any) -> str:
    return request.messages[-1].parts[0].text.text


def _generation(text: str) -> generation_pb2.Generation:
    return generation_pb2.Generation(parts=[content_pb2.Part(text=content_pb2.TextPart(text=text))], provider="openai")


@dataclass(slots=True)
class Memory:
    """Memories in a list."""

    held: list[memory_service_pb2.Memory] = field(default_factory=list[memory_service_pb2.Memory])

    def Remember(self, request: Any, _context: Any) -> memory_service_pb2.RememberResponse:
        memory = memory_service_pb2.Memory(memory_id=f"memory_{len(self.held) + 1}", parts=request.parts)
        self.held.insert(0, memory)
        return memory_service_pb2.RememberResponse(memory=memory)

    def Recall(self, _request: Any, _context: Any) -> memory_service_pb2.RecallResponse:
        matches = [memory_service_pb2.ScoredMemory(memory=one, score=0.9) for one in self.held]
        return memory_service_pb2.RecallResponse(semantic=matches)

    def GetMemory(self, request: Any, _context: Any) -> memory_service_pb2.GetMemoryResponse:
        for memory in self.held:
            if memory.memory_id == request.memory_id:
                return memory_service_pb2.GetMemoryResponse(memory=memory)
        raise NotFound("memory", request.memory_id)

    def ListMemories(self, request: Any, _context: Any) -> memory_service_pb2.ListMemoriesResponse:
        page, token = one_page(self.held, request)
        return memory_service_pb2.ListMemoriesResponse(memories=page, next_page_token=token)

    def ForgetMemory(self, request: Any, _context: Any) -> memory_service_pb2.ForgetMemoryResponse:
        self.held = [memory for memory in self.held if memory.memory_id != request.memory_id]
        return memory_service_pb2.ForgetMemoryResponse()


@dataclass(slots=True)
class Tools:
    """A calculator that knows one sum."""

    registered: list[tool_service_pb2.Tool] = field(
        default_factory=lambda: [
            tool_service_pb2.Tool(name="calculator", version="1.0.0", description="Computes an expression.")
        ]
    )

    def RegisterTool(self, request: Any, _context: Any) -> tool_service_pb2.RegisterToolResponse:
        self.registered.append(request.tool)
        return tool_service_pb2.RegisterToolResponse(tool=request.tool)

    def GetTool(self, request: Any, _context: Any) -> tool_service_pb2.GetToolResponse:
        for tool in self.registered:
            if tool.name == request.name:
                return tool_service_pb2.GetToolResponse(tool=tool)
        raise NotFound("tool", request.name)

    def ListTools(self, request: Any, _context: Any) -> tool_service_pb2.ListToolsResponse:
        page, token = one_page(self.registered, request)
        return tool_service_pb2.ListToolsResponse(tools=page, next_page_token=token)

    def SearchTools(self, _request: Any, _context: Any) -> tool_service_pb2.SearchToolsResponse:
        matches = [tool_service_pb2.SearchToolsResponse.Match(tool=tool, score=1.0) for tool in self.registered]
        return tool_service_pb2.SearchToolsResponse(matches=matches)

    def InvokeTool(self, request: Any, _context: Any) -> tool_service_pb2.InvokeToolResponse:
        return tool_service_pb2.InvokeToolResponse(invocation=_invocation(request))

    def StreamInvokeTool(self, request: Any, _context: Any) -> Iterator[tool_service_pb2.StreamInvokeToolResponse]:
        yield tool_service_pb2.StreamInvokeToolResponse(sequence=1, text_delta="4")
        yield tool_service_pb2.StreamInvokeToolResponse(sequence=2, invocation=_invocation(request))


def _invocation(request: Any) -> tool_service_pb2.Invocation:
    known = dict(request.arguments).get("expression") == "6*7"
    text = content_pb2.TextPart(text="42" if known else "this is no expression")
    return tool_service_pb2.Invocation(
        parts=[content_pb2.Part(text=text)], failed=not known, tool=f"{request.name}@1.0.0"
    )


@dataclass(slots=True)
class Status:
    """Health of the seven."""

    down: set[str] = field(default_factory=set[str])

    def GetMeshStatus(self, _request: Any, _context: Any) -> status_service_pb2.GetMeshStatusResponse:
        names = ("cost", "gateway", "inference", "memory", "orchestrator", "policy", "tools")
        services = [
            status_service_pb2.GetMeshStatusResponse.Service(
                name=name,
                health=status_service_pb2.SERVICE_HEALTH_UNREACHABLE
                if name in self.down
                else status_service_pb2.SERVICE_HEALTH_SERVING,
            )
            for name in names
        ]
        return status_service_pb2.GetMeshStatusResponse(services=services, version="0.1.0", serving=not self.down)
