"""What services keep in memory is kept by tenant, or holds nothing of tenants; the list below says why for each.

Found by reading the code: whatever a class or a module keeps in a map or a set, and every remembered function. A key
that names the tenant needs no line here. A new class that keeps something under another key fails until it has one.
"""

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SERVICES: Final = Path(__file__).parents[2] / "services"
_KEPT: Final = frozenset({"dict", "OrderedDict", "defaultdict", "WeakValueDictionary", "WeakKeyDictionary", "set"})
_REMEMBERED: Final = frozenset({"lru_cache", "cache", "cached"})
#: Types of keys that hold the tenant.
BY_TENANT: Final = ("TenantId", "CallKey", "ArmName")

#: Why what is kept under another key is nobody else's, by reason.
WHY: Final[Mapping[str, frozenset[str]]] = {
    "it lives for one call, request, batch, file, run or rollout, and goes with it": frozenset(
        {
            "inference/domain/rollout/judgement.py:Seen",
            "inference/domain/rollout/scores.py:Scores",
            "inference/domain/rollout/watch.py:Watch",
            "inference/domain/rollout/watch.py:_in_step()",
            "inference/usecases/admit.py:FairScheduler",
            "inference/usecases/race.py:Ended",
            "inference/usecases/race.py:Race",
            "cost/domain/changes.py:ChangesDraft",
            "cost/domain/hold_lines.py:Place",
            "cost/domain/hold_lines.py:Turns",
            "cost/domain/hold_lines.py:_Look",
            "cost/domain/spend_book.py:SpendBook",
            "gateway/relations/explain.py:_Granted",
            "gateway/relations/explain.py:_Ways",
            "gateway/relations/search.py:Search",
            "inference/providers/anthropic/messages.py:MessageReader",
            "inference/providers/openai/chat_wire.py:ToolCalls",
            "inference/transport/doors/conversation.py:Conversation",
            "inference/transport/doors/door.py:Visit",
            "meshkit/batching/client_stream.py:ClientStream",
            "meshkit/batching/stream_session.py:StreamSession",
            "meshkit/content/law.py:Subject",
            "meshkit/core/audit.py:AuditDraft",
            "meshkit/core/errors.py:MeshError",
            "orchestrator/engine/live_run.py:LiveRun",
            "orchestrator/engine/run_calls.py:RunCalls",
            "orchestrator/engine/run_timers.py:RunTimers",
            "meshkit/documents/schema.py:_Unfolding",
            "meshkit/documents/source.py:Source",
            "meshkit/documents/source.py:_Reader",
            "orchestrator/conditions/budget.py:Budget",
            "orchestrator/conditions/cel_program.py:_Translator",
            "orchestrator/conditions/cel_types.py:_Writer",
            "orchestrator/conditions/expressions.py:Expressions",
            "orchestrator/conditions/expressions.py:Scope",
            "orchestrator/conditions/jsonpath.py:_Translator",
            "orchestrator/domain/estimator.py:Habits",
            "orchestrator/domain/estimator.py:RunHabits",
            "orchestrator/domain/estimator.py:_Sums",
            "orchestrator/engine/leases.py:Desk",
            "orchestrator/engine/loans.py:Loan",
            "orchestrator/engine/loans.py:Loans",
            "orchestrator/transport/worker_stream.py:WorkerStream",
            "orchestrator/programs/dialogue.py:DialogueState",
            "orchestrator/programs/expressions.py:Expressions",
            "orchestrator/programs/graph_plan.py:_Planner",
            "orchestrator/programs/graph_state.py:GraphState",
            "orchestrator/programs/graph_state.py:MapState",
            "orchestrator/programs/planned_state.py:PlannedState",
            "orchestrator/programs/run.py:RunState",
            "orchestrator/programs/run_view.py:RunProjection",
            "orchestrator/usecases/archive_runs.py:_Failed",
            "orchestrator/record/comparing.py:SeenRun",
            "orchestrator/record/forking.py:RecordedAnswers",
            "orchestrator/record/provenance.py:ProvenanceMaker",
            "orchestrator/record/run_shapes.py:_SessionShape",
            "orchestrator/record/run_shapes.py:_WorkflowShape",
            "orchestrator/record/run_shapes.py:_Workflows",
            "orchestrator/workflows/check.py:_Checker",
            "orchestrator/workflows/faults.py:Faults",
            "orchestrator/workflows/fields.py:Fields",
            "orchestrator/workflows/imported.py:Fields",
            "orchestrator/workflows/imported.py:Imported",
            "orchestrator/workflows/imported.py:Templates",
        }
    ),
    "the key is the whole content or its digest, so an equal key is an equal content": frozenset(
        {
            "inference/domain/rollout/evidence.py:_bets()",
            "inference/domain/rollout/watch.py:_joined()",
            "inference/domain/answer_cache.py:KeptAnswers",
            "inference/usecases/cached_answers.py:CachedAnswers",
            "inference/domain/similar_answers.py:SimilarAnswers",
            "inference/domain/output_format.py:_compiled()",
            "inference/domain/prompt_limits.py:SchemaProblems",
            "gateway/clients/openfga.py:OpenFgaRelationStore",
            "gateway/relations/parse.py:_remembered()",
            "meshkit/calls/law_gate.py:_outcome()",
            "meshkit/documents/checking_cost.py:Cost",
            "meshkit/documents/checking_cost.py:Costs",
            "meshkit/grpc/client_address.py:_address()",
            "meshkit/grpc/client_address.py:_host_of()",
            "meshkit/grpc/client_address.py:_networks()",
            "orchestrator/engine/step_times.py:_duration()",
            "orchestrator/programs/graph.py:Plans",
            "orchestrator/programs/prompting.py:_compiled()",
            "orchestrator/usecases/run_input.py:_compiled()",
            "policy/rules/compiled.py:CompiledBundle",
            "policy/rules/compiled.py:_Plan",
            "policy/usecases/laws.py:Laws",
            "tools/domain/compiled_schemas.py:CompiledSchemas",
        }
    ),
    "the key is a secret or a signed proof, which only its holder can show": frozenset(
        {
            "gateway/usecases/exchange_api_key.py:ExchangeApiKey",
            "inference/transport/doors/keys.py:DoorKeys",
            "meshkit/grpc/identity.py:TokenVerifier",
            "meshkit/grpc/identity.py:WorkloadVerifier",
        }
    ),
    "the key names what one tenant has, and comes from what that tenant holds": frozenset(
        {
            "inference/domain/registry.py:Names",
            "inference/providers/opened.py:OpenedModels",
            "inference/usecases/observe_rollouts.py:ObserveRollouts",
            "inference/usecases/registry.py:MemoryRegistry",
            "inference/usecases/registry_news.py:RegistryNews",
        }
    ),
    "what is kept names its tenant, and whoever asks for it is compared with that": frozenset(
        {
            "inference/usecases/judge_rollouts.py:JudgeRollouts",
            "cost/domain/hold_lines.py:HoldLines",
            "cost/storage/seen_rows.py:SeenRows",
            "meshkit/guard/feed.py:_Known",
            "orchestrator/clients/live_events.py:NatsLiveEvents",
            "orchestrator/engine/alarms.py:Alarms",
            "orchestrator/engine/calls_in_flight.py:CallsInFlight",
            "orchestrator/engine/engine.py:Engine",
            "orchestrator/engine/faults.py:Faults",
            "orchestrator/engine/unready_writes.py:UnreadyWrites",
            "orchestrator/engine/lane.py:Lane",
            "orchestrator/engine/pool.py:Pool",
            "orchestrator/engine/pool.py:_Queue",
            "orchestrator/engine/room.py:Room",
            "orchestrator/engine/step_times.py:StepTimes",
            "orchestrator/engine/sub_run_places.py:SubRunPlaces",
            "orchestrator/engine/step_pools.py:StepPools",
        }
    ),
    "the key is or holds the tenant, which its type does not say": frozenset(
        {
            "inference/domain/fairness/fair_queue.py:FairQueue",
            "inference/domain/fairness/fair_queue.py:_Lane",
            "cost/usecases/hold_queue.py:HoldQueue",
            "meshkit/calls/unanswered.py:Unanswered",
            "meshkit/crypto/keyring.py:KeyRing",
            "policy/usecases/record_violations.py:RecordViolations",
        }
    ),
    "the calendar and its time zones, which are the same for everybody": frozenset(
        {
            "cost/domain/period.py:place_of()",
            "cost/domain/period.py:since_when()",
            "cost/domain/period.py:zones()",
        }
    ),
    "moments: what is due at one is gone through, whosever it is": frozenset(
        {"orchestrator/engine/deadlines.py:Deadlines"},
    ),
    "public keys of providers, by their address": frozenset(
        {"gateway/clients/id_tokens.py:IdTokenVerifier", "gateway/clients/issuer_keys.py:IssuerKeys"}
    ),
    "addresses that calls come from, before anybody knows for whom": frozenset(
        {"gateway/usecases/wrong_keys.py:WrongKeys"}
    ),
    "names only, shown to operators: at most a bound of them, and none that looks like an id": frozenset(
        {"meshkit/telemetry/metrics.py:BoundedLabel"}
    ),
    "prices, keys, settings, connections, tasks and names of the installation itself": frozenset(
        {
            "inference/providers/egress.py:EgressRule",
            "inference/usecases/deployment_gates.py:DeploymentGates",
            "inference/usecases/paces.py:Paces",
            "cost/domain/price_book.py:PriceBook",
            "cost/domain/recommendation.py:_draws()",
            "gateway/clients/tenant_stores.py:GrpcTenantStores",
            "gateway/domain/audit_health.py:AuditHealth",
            "gateway/usecases/collect_audit.py:CollectAudit",
            "gateway/usecases/guard_news.py:GuardNews",
            "gateway/usecases/signing_key_ring.py:SigningKeyRing",
            "inference/clients/price_list.py:CostPriceList",
            "memory/vectors/lite_client.py:LiteClient",
            "memory/vectors/milvus_client.py:MilvusClient",
            "meshkit/audit/feed.py:AuditFeed",
            "meshkit/batching/lane.py:Lane",
            "meshkit/bus/bus.py:Bus",
            "meshkit/bus/consumer.py:Consumer",
            "meshkit/core/failpoints.py:",
            "meshkit/crypto/kek_file.py:KekFile",
            "meshkit/grpc/call.py:Drain",
            "inference/transport/doors/routes.py:Doors",
            "inference/usecases/door_call.py:DoorHolds",
            "meshkit/grpc/interceptors.py:MeshInterceptor",
            "meshkit/grpc/rotating_channel.py:_RotatingChannel",
            "meshkit/grpc/signed_token.py:KeySetFile",
            "meshkit/guard/feed.py:GuardFeed",
            "meshkit/guard/lessee.py:Lessee",
            "meshkit/guard/rate.py:RateGate",
            "meshkit/sql/spare_pool.py:SparePool",
            "orchestrator/clients/acknowledgements.py:Acknowledgements",
            "orchestrator/clients/model_prices.py:MeshModelPrices",
            "orchestrator/clients/worker_loans.py:WorkerLoans",
            "orchestrator/engine/shards.py:ShardKeeper",
        }
    ),
}


@dataclass(frozen=True, slots=True)
class Kept:
    """Something that is kept, and where."""

    #: `path:Class`, `path:function()`, or `path:` for a module's own.
    place: str
    #: Text of its type, aliases of the module written out.
    kind: str

    @property
    def by_tenant(self) -> bool:
        """True when its key names the tenant."""
        inside = self.kind.partition("[")[2]
        return any(inside.startswith((name, f"tuple[{name}")) for name in BY_TENANT)


def all_kept() -> Iterator[Kept]:
    for path in sorted(SERVICES.rglob("*.py")):
        place = path.relative_to(SERVICES).as_posix()
        # The launcher serves no tenant; what helps tests is in no process that does.
        if not place.startswith(("launcher/", "meshkit/testing/")):
            yield from kept_in(place, ast.parse(path.read_text(encoding="utf-8")))


def kept_in(place: str, module: ast.Module) -> Iterator[Kept]:
    aliases = {
        target.id: ast.unparse(statement.value)
        for statement in module.body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }
    yield from (Kept(f"{place}:", kind) for kind in _kinds(module.body, aliases, on_module=True))
    for node in ast.walk(module):
        if isinstance(node, ast.ClassDef):
            inside = list(ast.walk(node))
            yield from (Kept(f"{place}:{node.name}", kind) for kind in _kinds(inside, aliases, on_module=False))
        elif isinstance(node, ast.FunctionDef) and any(_name(one) in _REMEMBERED for one in node.decorator_list):
            yield Kept(f"{place}:{node.name}()", "")


def _kinds(nodes: Sequence[ast.AST], aliases: Mapping[str, str], *, on_module: bool) -> Iterator[str]:
    """Gives the types of what outlives its block: attributes, and names of a module; empty where none is said."""
    said = {ast.unparse(node.target) for node in nodes if isinstance(node, ast.AnnAssign)}
    for node in nodes:
        # What a module says once and for all is no store.
        if on_module and isinstance(node, ast.Assign | ast.AnnAssign) and not _is_empty(node.value):
            continue
        if isinstance(node, ast.AnnAssign):
            annotation = node.annotation
            if isinstance(annotation, ast.Subscript) and _name(annotation) == "Final":
                annotation = annotation.slice
            stays = on_module or isinstance(node.target, ast.Attribute) or _name(node.value) == "field"
            if stays and _name(annotation) in _KEPT:
                head, _, inside = ast.unparse(annotation).partition("[")
                key = inside.partition(",")[0].rstrip("]")
                yield f"{head}[{inside.replace(key, aliases.get(key, key), 1)}"
        elif isinstance(node, ast.Assign) and (on_module or isinstance(node.targets[0], ast.Attribute)):
            filled = isinstance(node.value, ast.DictComp) or _name(node.value) in _KEPT
            if (filled or _is_empty(node.value)) and ast.unparse(node.targets[0]) not in said:
                yield ""


def _is_empty(value: ast.expr | None) -> bool:
    """True for `{}` and for a call such as `OrderedDict()`."""
    if isinstance(value, ast.Call):
        return _name(value) in _KEPT and not value.args
    return isinstance(value, ast.Dict) and not value.keys


def _name(node: ast.expr | None) -> str:
    """Gives the last name of what a type, a call or a place begins with."""
    while isinstance(node, ast.Subscript | ast.Call):
        node = node.value if isinstance(node, ast.Subscript) else node.func
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def test_whatever_is_kept_is_kept_by_tenant_or_has_a_reason() -> None:
    reasons = frozenset().union(*WHY.values())
    assert sum(map(len, WHY.values())) == len(reasons), "a place has two reasons"
    others = {kept.place for kept in all_kept() if not kept.by_tenant}
    assert not (new := sorted(others - reasons)), (
        f"{new} keep something under a key without the tenant: put the tenant into the key, or say in WHY why not"
    )
    assert not (gone := sorted(reasons - others)), f"these keep nothing any more, take them out of WHY: {gone}"


def test_what_is_kept_is_found_in_every_shape() -> None:
    source = """
_Key = tuple[TenantId, str]
_known: Final[dict[str, int]] = {}
TABLE: Final[dict[str, int]] = {"a": 1}

@lru_cache(maxsize=4)
def remembered(text: str) -> int: ...

class Fine:
    def __init__(self) -> None:
        self._a: OrderedDict[TenantId, int] = OrderedDict()
        self._b: dict[_Key, int] = {}
        self._c: dict[tuple[TenantId, UUID], int] = {}
        here: dict[str, int] = {}

class Wrong:
    def __init__(self) -> None:
        self._d: dict[str, TenantId] = {}

@dataclass
class AlsoWrong:
    e: set[str] = field(default_factory=set)
"""
    found = list(kept_in("x.py", ast.parse(source)))
    assert {kept.place for kept in found if not kept.by_tenant} == {
        "x.py:", "x.py:remembered()", "x.py:Wrong", "x.py:AlsoWrong"
    }  # fmt: skip
    assert [kept.place for kept in found if kept.by_tenant] == ["x.py:Fine"] * 3
