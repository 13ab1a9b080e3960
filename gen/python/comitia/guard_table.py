"""Who may call which RPC, how often and for how long. Made by `make gen` from the guards; do not edit."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Guard:
    """What one RPC asks of its caller; `comitia/common/v1/guard.proto` explains the fields."""

    #: Permission that one of the caller's roles must grant. Empty only when the RPC is open.
    permission: str
    #: Calls a tenant may start per second in the whole mesh. 0 means the default of 100.
    per_tenant_per_second: int
    #: Longest duration of a call. 0 means the default of 30.
    max_seconds: int
    #: True when the call needs no identity.
    open: bool
    #: Services that may call; empty for a public RPC.
    peers: frozenset[str]
    #: True for a control-plane mutation, which leaves an audit row.
    audit: bool = False
    #: Calls one subject may start per second; four fifths of the tenant's unless the annotation says otherwise. 0 where
    #: there is no subject, or no limit beside the tenant's.
    per_subject_per_second: int = 0
    #: Calls one client address may start per second. 0 means no limit beside the edge's.
    per_address_per_second: int = 0
    #: Calls a tenant may have in progress at one replica. 0 means no limit beside its share of the replica.
    per_tenant_in_progress: int = 0
    #: True when a caller who is bound to one project may call; False when the call concerns the whole tenant.
    of_project: bool = False
    #: True for a read that leaves an audit row.
    audit_read: bool = False


#: Guard of every RPC by its name on the wire.
GUARDS: dict[str, Guard] = {
    "/comitia.common.v1.AuditFeedService/PullAuditEntries": Guard("", 0, 10, True, frozenset({"gateway"})),
    "/comitia.common.v1.TenantDataService/EraseTenant": Guard("", 0, 60, True, frozenset({"gateway"})),
    "/comitia.common.v1.TenantDataService/PlanErasure": Guard("", 0, 30, True, frozenset({"gateway"})),
    "/comitia.cost.v1.BudgetService/BatchSpend": Guard("budgets.spend", 0, 3600, False, frozenset({"inference", "memory", "tools"})),
    "/comitia.cost.v1.BudgetService/CreateBudget": Guard("budgets.write", 0, 5, False, frozenset({"orchestrator"}), audit=True),
    "/comitia.cost.v1.BudgetService/Extend": Guard("budgets.spend", 0, 10, False, frozenset({"inference", "memory", "tools"})),
    "/comitia.cost.v1.BudgetService/GetBudget": Guard("budgets.read", 0, 5, False, frozenset(), per_subject_per_second=80, of_project=True),
    "/comitia.cost.v1.BudgetService/GetBudgetStatus": Guard("budgets.read", 0, 5, False, frozenset(), per_subject_per_second=80, of_project=True),
    "/comitia.cost.v1.BudgetService/GetBudgetTree": Guard("budgets.read", 0, 5, False, frozenset(), per_subject_per_second=80),
    "/comitia.cost.v1.BudgetService/ListBudgetAlerts": Guard("budgets.read", 0, 5, False, frozenset(), per_subject_per_second=80, of_project=True),
    "/comitia.cost.v1.BudgetService/ListBudgets": Guard("budgets.read", 0, 5, False, frozenset(), per_subject_per_second=80),
    "/comitia.cost.v1.BudgetService/MarkDispatched": Guard("budgets.spend", 0, 10, False, frozenset({"inference", "memory", "tools"})),
    "/comitia.cost.v1.BudgetService/Release": Guard("budgets.spend", 0, 10, False, frozenset({"inference", "memory", "tools"})),
    "/comitia.cost.v1.BudgetService/RemoveBudget": Guard("budgets.limit", 10, 5, False, frozenset(), audit=True, per_subject_per_second=8),
    "/comitia.cost.v1.BudgetService/Reserve": Guard("budgets.spend", 0, 620, False, frozenset({"inference", "memory", "tools"})),
    "/comitia.cost.v1.BudgetService/SetBudget": Guard("budgets.limit", 10, 5, False, frozenset(), audit=True, per_subject_per_second=8),
    "/comitia.cost.v1.BudgetService/SetBudgetLimit": Guard("budgets.limit", 10, 5, False, frozenset(), audit=True, per_subject_per_second=8),
    "/comitia.cost.v1.BudgetService/Settle": Guard("budgets.spend", 0, 10, False, frozenset({"inference", "memory", "tools"})),
    "/comitia.cost.v1.ForecastService/GetSpendForecast": Guard("costs.read", 20, 10, False, frozenset(), per_subject_per_second=16, per_tenant_in_progress=2),
    "/comitia.cost.v1.ForecastService/GetSpendVelocity": Guard("costs.read", 20, 10, False, frozenset(), per_subject_per_second=16, per_tenant_in_progress=2),
    "/comitia.cost.v1.ForecastService/ListRecommendations": Guard("costs.read", 2, 30, False, frozenset(), per_subject_per_second=2, per_tenant_in_progress=1),
    "/comitia.cost.v1.ForecastService/ListSpendAlerts": Guard("costs.read", 0, 5, False, frozenset(), per_subject_per_second=80),
    "/comitia.cost.v1.ForecastService/ListSpikeRules": Guard("budgets.read", 0, 5, False, frozenset(), per_subject_per_second=80),
    "/comitia.cost.v1.ForecastService/SetSpikeRule": Guard("budgets.limit", 10, 5, False, frozenset(), audit=True, per_subject_per_second=8),
    "/comitia.cost.v1.LedgerService/ExportCosts": Guard("costs.read", 2, 600, False, frozenset(), per_subject_per_second=2, per_tenant_in_progress=1, of_project=True),
    "/comitia.cost.v1.LedgerService/GetCostSeries": Guard("costs.read", 50, 10, False, frozenset(), per_subject_per_second=40, per_tenant_in_progress=4, of_project=True),
    "/comitia.cost.v1.LedgerService/GetCostSummary": Guard("costs.read", 50, 10, False, frozenset(), per_subject_per_second=40, per_tenant_in_progress=4, of_project=True),
    "/comitia.cost.v1.LedgerService/ListCostEvents": Guard("costs.read", 0, 5, False, frozenset(), per_subject_per_second=80, per_tenant_in_progress=4, of_project=True),
    "/comitia.cost.v1.LedgerService/RepriceEvents": Guard("costs.reprice", 2, 60, False, frozenset(), audit=True, per_subject_per_second=2, per_tenant_in_progress=1),
    "/comitia.cost.v1.PricingService/GetUnknownPrice": Guard("budgets.read", 0, 5, False, frozenset(), per_subject_per_second=80),
    "/comitia.cost.v1.PricingService/ImportPrices": Guard("prices.import", 2, 60, False, frozenset(), audit=True, per_subject_per_second=2, per_tenant_in_progress=1),
    "/comitia.cost.v1.PricingService/ListPrices": Guard("prices.read", 0, 5, False, frozenset(), per_subject_per_second=80, of_project=True),
    "/comitia.cost.v1.PricingService/SetUnknownPrice": Guard("budgets.limit", 10, 5, False, frozenset(), audit=True, per_subject_per_second=8),
    "/comitia.gateway.v1.AccessService/AuthorizeCaller": Guard("identity.read", 0, 2, False, frozenset({"cost", "inference", "memory", "orchestrator", "policy", "tools"})),
    "/comitia.gateway.v1.AccessService/CheckRelation": Guard("access.read", 0, 5, False, frozenset(), per_subject_per_second=80),
    "/comitia.gateway.v1.AccessService/GetAuthorizationModel": Guard("access.read", 0, 5, False, frozenset(), per_subject_per_second=80),
    "/comitia.gateway.v1.AccessService/ListRelations": Guard("access.read", 0, 5, False, frozenset(), per_subject_per_second=80),
    "/comitia.gateway.v1.AccessService/WriteAuthorizationModel": Guard("access.write", 5, 5, False, frozenset(), audit=True, per_subject_per_second=4),
    "/comitia.gateway.v1.AccessService/WriteRelations": Guard("access.write", 20, 5, False, frozenset(), audit=True, per_subject_per_second=16),
    "/comitia.gateway.v1.AuditService/AcknowledgeAuditGap": Guard("audit.acknowledge", 5, 10, False, frozenset(), audit=True, per_subject_per_second=4),
    "/comitia.gateway.v1.AuditService/ExportAudit": Guard("audit.export", 2, 3600, False, frozenset(), per_subject_per_second=2, per_tenant_in_progress=4),
    "/comitia.gateway.v1.AuditService/GetAuditStatus": Guard("audit.read", 0, 5, False, frozenset(), per_subject_per_second=80),
    "/comitia.gateway.v1.AuditService/ListAuditEntries": Guard("audit.read", 0, 10, False, frozenset(), per_subject_per_second=80),
    "/comitia.gateway.v1.AuditService/ProveAuditConsistency": Guard("audit.read", 0, 10, False, frozenset(), per_subject_per_second=80),
    "/comitia.gateway.v1.AuditService/ProveAuditEntry": Guard("audit.read", 0, 10, False, frozenset(), per_subject_per_second=80),
    "/comitia.gateway.v1.AuditService/SignProvenance": Guard("runs.read", 0, 5, False, frozenset({"orchestrator"})),
    "/comitia.gateway.v1.GuardFeedService/LeaseRate": Guard("", 0, 2, True, frozenset({"cost", "gateway", "inference", "memory", "orchestrator", "policy", "tools"})),
    "/comitia.gateway.v1.GuardFeedService/WatchGuard": Guard("", 0, 3600, True, frozenset({"cost", "gateway", "inference", "memory", "orchestrator", "policy", "tools"})),
    "/comitia.gateway.v1.IdentityService/CreateApiKey": Guard("api_keys.write", 10, 5, False, frozenset(), audit=True, per_subject_per_second=8, of_project=True),
    "/comitia.gateway.v1.IdentityService/CreateServiceAccount": Guard("service_accounts.write", 10, 5, False, frozenset(), audit=True, per_subject_per_second=8, of_project=True),
    "/comitia.gateway.v1.IdentityService/DisableServiceAccount": Guard("service_accounts.write", 10, 5, False, frozenset(), audit=True, per_subject_per_second=8, of_project=True),
    "/comitia.gateway.v1.IdentityService/ExchangeApiKey": Guard("", 0, 5, True, frozenset(), per_address_per_second=20),
    "/comitia.gateway.v1.IdentityService/ExchangeGrant": Guard("", 0, 5, True, frozenset({"orchestrator"})),
    "/comitia.gateway.v1.IdentityService/GetKeySet": Guard("", 0, 5, True, frozenset(), per_address_per_second=20),
    "/comitia.gateway.v1.IdentityService/IssueGrant": Guard("grants.issue", 0, 5, False, frozenset({"orchestrator"})),
    "/comitia.gateway.v1.IdentityService/ListApiKeys": Guard("api_keys.read", 0, 5, False, frozenset(), per_subject_per_second=80, of_project=True),
    "/comitia.gateway.v1.IdentityService/ListServiceAccounts": Guard("service_accounts.read", 0, 5, False, frozenset(), per_subject_per_second=80, of_project=True),
    "/comitia.gateway.v1.IdentityService/RevokeApiKey": Guard("api_keys.write", 10, 5, False, frozenset(), audit=True, per_subject_per_second=8, of_project=True),
    "/comitia.gateway.v1.IdentityService/RotateApiKey": Guard("api_keys.write", 10, 5, False, frozenset(), audit=True, per_subject_per_second=8, of_project=True),
    "/comitia.gateway.v1.IdentityService/RotateSigningKey": Guard("signing_keys.write", 1, 10, False, frozenset(), audit=True, per_subject_per_second=1),
    "/comitia.gateway.v1.IdentityService/WhoAmI": Guard("identity.read", 0, 5, False, frozenset(), per_subject_per_second=80, of_project=True),
    "/comitia.gateway.v1.StatusService/GetMeshStatus": Guard("", 0, 5, True, frozenset(), per_address_per_second=20),
    "/comitia.gateway.v1.StatusService/GetOpenApi": Guard("", 0, 5, True, frozenset(), per_address_per_second=20),
    "/comitia.gateway.v1.TenantService/CreateTenant": Guard("tenants.write", 10, 10, False, frozenset(), audit=True, per_subject_per_second=8),
    "/comitia.gateway.v1.TenantService/DeleteTenant": Guard("tenants.write", 5, 30, False, frozenset(), audit=True, per_subject_per_second=4),
    "/comitia.gateway.v1.TenantService/GetErasure": Guard("tenants.read", 0, 5, False, frozenset(), per_subject_per_second=80),
    "/comitia.gateway.v1.TenantService/GetOwnTenant": Guard("identity.read", 0, 5, False, frozenset(), per_subject_per_second=80, of_project=True),
    "/comitia.gateway.v1.TenantService/GetTenant": Guard("tenants.read", 0, 5, False, frozenset(), per_subject_per_second=80),
    "/comitia.gateway.v1.TenantService/ListTenants": Guard("tenants.read", 0, 5, False, frozenset(), per_subject_per_second=80),
    "/comitia.gateway.v1.TenantService/ResumeTenant": Guard("tenants.write", 10, 5, False, frozenset(), audit=True, per_subject_per_second=8),
    "/comitia.gateway.v1.TenantService/SetSecurityPolicy": Guard("security_policy.write", 10, 5, False, frozenset(), audit=True, per_subject_per_second=8),
    "/comitia.gateway.v1.TenantService/SuspendTenant": Guard("tenants.write", 10, 5, False, frozenset(), audit=True, per_subject_per_second=8),
    "/comitia.gateway.v1.TenantService/UpdateTenant": Guard("tenants.write", 10, 5, False, frozenset(), audit=True, per_subject_per_second=8),
    "/comitia.gateway.v1.UserService/CreateOidcIssuer": Guard("oidc_issuers.write", 5, 10, False, frozenset(), audit=True, per_subject_per_second=4),
    "/comitia.gateway.v1.UserService/DeleteOidcIssuer": Guard("oidc_issuers.write", 5, 5, False, frozenset(), audit=True, per_subject_per_second=4),
    "/comitia.gateway.v1.UserService/ExchangeOidcToken": Guard("", 0, 10, True, frozenset(), per_address_per_second=10),
    "/comitia.gateway.v1.UserService/GetLoginOptions": Guard("", 0, 5, True, frozenset(), per_address_per_second=10),
    "/comitia.gateway.v1.UserService/InviteUser": Guard("users.write", 10, 5, False, frozenset(), audit=True, per_subject_per_second=8),
    "/comitia.gateway.v1.UserService/ListOidcIssuers": Guard("oidc_issuers.read", 0, 5, False, frozenset(), per_subject_per_second=80),
    "/comitia.gateway.v1.UserService/ListUsers": Guard("users.read", 0, 5, False, frozenset(), per_subject_per_second=80),
    "/comitia.gateway.v1.UserService/RemoveUser": Guard("users.write", 10, 5, False, frozenset(), audit=True, per_subject_per_second=8),
    "/comitia.gateway.v1.UserService/SetUserRoles": Guard("users.write", 10, 5, False, frozenset(), audit=True, per_subject_per_second=8),
    "/comitia.inference.v1.InferenceService/BatchGenerate": Guard("inference.generate", 0, 3600, False, frozenset({"orchestrator"})),
    "/comitia.inference.v1.InferenceService/CountTokens": Guard("inference.generate", 0, 10, False, frozenset(), per_subject_per_second=80, of_project=True),
    "/comitia.inference.v1.InferenceService/Embed": Guard("inference.embed", 200, 60, False, frozenset(), per_subject_per_second=160, of_project=True),
    "/comitia.inference.v1.InferenceService/Generate": Guard("inference.generate", 200, 300, False, frozenset(), per_subject_per_second=160, of_project=True),
    "/comitia.inference.v1.InferenceService/StreamGenerate": Guard("inference.generate", 200, 300, False, frozenset(), per_subject_per_second=160, of_project=True),
    "/comitia.inference.v1.ModelService/ListModels": Guard("models.read", 0, 10, False, frozenset(), per_subject_per_second=80, of_project=True),
    "/comitia.memory.v1.MemoryService/BatchMemories": Guard("memories.write", 0, 3600, False, frozenset({"orchestrator"})),
    "/comitia.memory.v1.MemoryService/ForgetMemory": Guard("memories.write", 0, 10, False, frozenset(), audit=True, per_subject_per_second=80),
    "/comitia.memory.v1.MemoryService/GetMemory": Guard("memories.read", 0, 5, False, frozenset(), per_subject_per_second=80),
    "/comitia.memory.v1.MemoryService/ListMemories": Guard("memories.read", 0, 5, False, frozenset(), per_subject_per_second=80),
    "/comitia.memory.v1.MemoryService/Recall": Guard("memories.read", 500, 10, False, frozenset(), per_subject_per_second=400),
    "/comitia.memory.v1.MemoryService/Remember": Guard("memories.write", 500, 10, False, frozenset(), per_subject_per_second=400),
    "/comitia.orchestrator.v1.AgentService/CreateAgent": Guard("agents.write", 50, 5, False, frozenset(), audit=True, per_subject_per_second=40),
    "/comitia.orchestrator.v1.AgentService/GetAgent": Guard("agents.read", 0, 5, False, frozenset(), per_subject_per_second=80, of_project=True),
    "/comitia.orchestrator.v1.AgentService/InferAgent": Guard("sessions.start", 50, 600, False, frozenset(), per_subject_per_second=40, of_project=True),
    "/comitia.orchestrator.v1.AgentService/ListAgents": Guard("agents.read", 0, 5, False, frozenset(), per_subject_per_second=80, of_project=True),
    "/comitia.orchestrator.v1.EstimateService/EstimateSession": Guard("agents.read", 20, 10, False, frozenset(), per_subject_per_second=16, per_tenant_in_progress=8, of_project=True),
    "/comitia.orchestrator.v1.EstimateService/EstimateWorkflow": Guard("workflows.read", 20, 10, False, frozenset(), per_subject_per_second=16, per_tenant_in_progress=8, of_project=True),
    "/comitia.orchestrator.v1.EstimateService/ListEstimates": Guard("runs.read", 0, 10, False, frozenset(), per_subject_per_second=80, of_project=True),
    "/comitia.orchestrator.v1.RecordService/DiffRuns": Guard("runs.read", 50, 60, False, frozenset(), per_subject_per_second=40, per_tenant_in_progress=8, of_project=True),
    "/comitia.orchestrator.v1.RecordService/ExportRun": Guard("runs.read", 50, 600, False, frozenset(), per_subject_per_second=40, per_tenant_in_progress=8, of_project=True),
    "/comitia.orchestrator.v1.RecordService/ForkRun": Guard("runs.start", 50, 30, False, frozenset(), per_subject_per_second=40, per_tenant_in_progress=8, of_project=True),
    "/comitia.orchestrator.v1.RecordService/GetRunProvenance": Guard("runs.read", 50, 60, False, frozenset(), per_subject_per_second=40, per_tenant_in_progress=8, of_project=True),
    "/comitia.orchestrator.v1.RecordService/ReplayRun": Guard("runs.read", 50, 60, False, frozenset(), per_subject_per_second=40, per_tenant_in_progress=8, of_project=True),
    "/comitia.orchestrator.v1.RunService/CancelRun": Guard("runs.control", 0, 10, False, frozenset(), per_subject_per_second=80, of_project=True),
    "/comitia.orchestrator.v1.RunService/GetRun": Guard("runs.read", 0, 10, False, frozenset(), per_subject_per_second=80, of_project=True),
    "/comitia.orchestrator.v1.RunService/ListRunSteps": Guard("runs.read", 20, 10, False, frozenset(), per_subject_per_second=16, of_project=True),
    "/comitia.orchestrator.v1.RunService/ListRuns": Guard("runs.read", 0, 10, False, frozenset(), per_subject_per_second=80, of_project=True),
    "/comitia.orchestrator.v1.RunService/PauseRun": Guard("runs.control", 0, 10, False, frozenset(), per_subject_per_second=80, of_project=True),
    "/comitia.orchestrator.v1.RunService/ResumeRun": Guard("runs.control", 0, 10, False, frozenset(), per_subject_per_second=80, of_project=True),
    "/comitia.orchestrator.v1.RunService/SignalRun": Guard("runs.control", 100, 10, False, frozenset(), per_subject_per_second=80, of_project=True),
    "/comitia.orchestrator.v1.RunService/StartRun": Guard("runs.start", 50, 10, False, frozenset(), per_subject_per_second=40, of_project=True),
    "/comitia.orchestrator.v1.RunService/StreamTurns": Guard("turns.export", 2, 600, False, frozenset(), per_subject_per_second=2, per_tenant_in_progress=2, audit_read=True),
    "/comitia.orchestrator.v1.RunService/WatchRun": Guard("runs.read", 0, 3600, False, frozenset(), per_subject_per_second=80, of_project=True),
    "/comitia.orchestrator.v1.SessionService/AdvanceSession": Guard("sessions.control", 0, 10, False, frozenset(), per_subject_per_second=80, of_project=True),
    "/comitia.orchestrator.v1.SessionService/CancelSession": Guard("sessions.control", 0, 10, False, frozenset(), per_subject_per_second=80, of_project=True),
    "/comitia.orchestrator.v1.SessionService/GetSession": Guard("sessions.read", 0, 5, False, frozenset(), per_subject_per_second=80, of_project=True),
    "/comitia.orchestrator.v1.SessionService/ListSessions": Guard("sessions.read", 0, 5, False, frozenset(), per_subject_per_second=80, of_project=True),
    "/comitia.orchestrator.v1.SessionService/ListTurns": Guard("sessions.read", 0, 10, False, frozenset(), per_subject_per_second=80, of_project=True),
    "/comitia.orchestrator.v1.SessionService/StartSession": Guard("sessions.start", 50, 10, False, frozenset(), per_subject_per_second=40, of_project=True),
    "/comitia.orchestrator.v1.SessionService/WatchSession": Guard("sessions.read", 0, 3600, False, frozenset(), per_subject_per_second=80, of_project=True),
    "/comitia.orchestrator.v1.WorkerLoanService/LendWorker": Guard("", 0, 3600, True, frozenset({"orchestrator"})),
    "/comitia.orchestrator.v1.WorkerService/Work": Guard("workers.work", 0, 3600, False, frozenset(), per_subject_per_second=80, of_project=True),
    "/comitia.orchestrator.v1.WorkflowService/CreateWorkflow": Guard("workflows.write", 20, 20, False, frozenset(), audit=True, per_subject_per_second=16, per_tenant_in_progress=8),
    "/comitia.orchestrator.v1.WorkflowService/GetWorkflow": Guard("workflows.read", 0, 5, False, frozenset(), per_subject_per_second=80, of_project=True),
    "/comitia.orchestrator.v1.WorkflowService/ListWorkflows": Guard("workflows.read", 0, 5, False, frozenset(), per_subject_per_second=80, of_project=True),
    "/comitia.orchestrator.v1.WorkflowService/ValidateWorkflow": Guard("workflows.read", 20, 20, False, frozenset(), per_subject_per_second=16, per_tenant_in_progress=8, of_project=True),
    "/comitia.policy.v1.BundleService/ActivateBundle": Guard("policies.write", 10, 10, False, frozenset(), audit=True, per_subject_per_second=8),
    "/comitia.policy.v1.BundleService/CreateBundle": Guard("policies.write", 10, 10, False, frozenset(), audit=True, per_subject_per_second=8),
    "/comitia.policy.v1.BundleService/GetBundle": Guard("policies.read", 0, 5, False, frozenset(), per_subject_per_second=80, of_project=True),
    "/comitia.policy.v1.BundleService/ListBundles": Guard("policies.read", 0, 5, False, frozenset(), per_subject_per_second=80, of_project=True),
    "/comitia.policy.v1.PolicyService/BatchEvaluate": Guard("policies.evaluate", 0, 3600, False, frozenset({"inference", "memory", "tools"})),
    "/comitia.policy.v1.PolicyService/Evaluate": Guard("policies.evaluate", 500, 10, False, frozenset(), per_subject_per_second=400, of_project=True),
    "/comitia.policy.v1.ViolationService/ListViolations": Guard("violations.read", 0, 5, False, frozenset(), per_subject_per_second=80),
    "/comitia.policy.v1.ViolationService/WatchViolations": Guard("violations.read", 0, 3600, False, frozenset(), per_subject_per_second=80),
    "/comitia.tools.v1.ToolService/GetTool": Guard("tools.read", 0, 5, False, frozenset(), per_subject_per_second=80, of_project=True),
    "/comitia.tools.v1.ToolService/InvokeTool": Guard("tools.invoke", 100, 120, False, frozenset(), per_subject_per_second=80, of_project=True),
    "/comitia.tools.v1.ToolService/ListTools": Guard("tools.read", 0, 5, False, frozenset(), per_subject_per_second=80, of_project=True),
    "/comitia.tools.v1.ToolService/RegisterTool": Guard("tools.write", 20, 5, False, frozenset(), audit=True, per_subject_per_second=16),
    "/comitia.tools.v1.ToolService/SearchTools": Guard("tools.read", 0, 10, False, frozenset(), per_subject_per_second=80, of_project=True),
    "/comitia.tools.v1.ToolService/StreamInvokeTool": Guard("tools.invoke", 100, 120, False, frozenset(), per_subject_per_second=80, of_project=True),
}
