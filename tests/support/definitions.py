"""Workflows for tests: one that uses everything, and how definitions are read without a database."""

from services.orchestrator.domain.workflow import StoredWorkflow
from services.orchestrator.workflows.definition import Draft, Format, KnownWorkflow, read_text

#: Every kind of node, and most fields.
EVERYTHING = """
name: contract-review
version: 1.0.0
description: Reads a contract, looks at each clause, and asks a person when in doubt.
deadline: 2d
policy: {preflight: degrade}
input_schema:
  type: object
  required: [contract]
  properties:
    contract: {type: string}
    clauses: {type: array, items: {type: object, properties: {text: {type: string}, weight: {type: integer}}}}
nodes:
  - id: read
    description: A first look.
    agent: {agent: Reader, prompt: Say what kind of contract this is.}
    input:
      contract: {cel: input.contract}
      language: en
      style: {literal: {tone: dry, words: 200}}
    policy:
      tier: gold
      sla_ms: 30000
      timeout: 90s
      heartbeat: 5s
      fallback_agent: Backup
      retries: {max_attempts: 5, first_backoff: 250ms, factor: 1.5, max_backoff: 1m30s, jitter: 0}
      output_schema: {type: object, properties: {kind: {type: string}, score: {type: number}}}
  - id: clauses
    depends_on:
      - {node: read, when: nodes.read.output.score >= 0.5}
    map:
      items: {cel: input.clauses}
      body:
        agent: {agent: Lawyer@2.1.0, prompt: {cel: "'Weigh this: ' + item.text"}}
        input: {place: {cel: index + 1}, weight: {jsonpath: $.item.weight}}
      max_parallel: 8
      max_items: 200
      on_item_failure: omit
  - id: archive
    depends_on: [read]
    tool: store_document@1.0.0
    input: {text: {jsonpath: $.input.contract}}
    policy: {on_failure: continue, retries: {max_attempts: 1}}
  - id: index_it
    depends_on: [archive]
    step: {name: search.index, pool: indexers, reads: input}
    when: {jsonpath: "$.input.clauses[?@.weight > 3]"}
  - id: doubt
    depends_on: [clauses]
    wait: {signal: person.decided, timeout: 7d}
  - id: pause
    wait: {timer: 1500ms}
  - id: sum
    depends_on: [clauses, doubt, pause]
    fan_in: {mode: quorum, quorum: 2}
    aggregate: {items: {cel: nodes.clauses.output}, cel: "items.filter(text, size(text) > 0)"}
  - id: notify
    depends_on:
      - sum
      - {node: archive, when: nodes.archive.state == 'failed'}
    fan_in: any
    run: notify
    input: {about: {cel: nodes.read.output.kind}, texts: {cel: nodes.sum.output}}
output:
  kind: {cel: nodes.read.output.kind}
  texts: {cel: nodes.sum.output}
  version: 1
"""

NOTIFY = KnownWorkflow(
    version="1.2.0",
    depth=1,
    input_schema={
        "type": "object",
        "properties": {"about": {"type": "string"}, "texts": {"type": "array"}},
        "required": ["about"],
        "additionalProperties": False,
    },
)


def pin(draft: Draft, *, workflows: dict[tuple[str, str], KnownWorkflow] | None = None) -> StoredWorkflow | None:
    """Pins a draft in a world where every agent exists, as version 1.0.0 unless it names one."""
    agents = {(one.name, one.version): one.version or "1.0.0" for one in draft.agents}
    return draft.pinned(agents, {("notify", ""): NOTIFY} if workflows is None else workflows)


def stored(text: str, written_in: Format | None = None) -> StoredWorkflow:
    """Gives a definition that must be sound as it would be stored."""
    draft = read_text(text, written_in)
    pinned = pin(draft)
    assert pinned is not None, draft.faults.found
    return pinned


def faults_of(text: str, written_in: Format | None = None) -> list[str]:
    """Gives every fault of a text: `line:column field REASON sentence`."""
    draft = read_text(text, written_in)
    pin(draft)
    return [f"{one.line}:{one.column} {one.field} {one.reason} {one.sentence}" for one in draft.faults.found]
