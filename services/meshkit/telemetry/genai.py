"""Names of attributes after the semantic conventions of OpenTelemetry for generative AI. The only place of them.

The public package has moved them between modules more than once, and marks them as unstable.
"""

from typing import Final

# --- attributes ------------------------------------------------------------------------------------------------------

#: What is done: one of the operations below.
OPERATION: Final = "gen_ai.operation.name"
#: Who serves the model: `openai`, `anthropic`, `stub`.
PROVIDER: Final = "gen_ai.provider.name"
#: Model that was asked for, and the one that answered.
REQUEST_MODEL: Final = "gen_ai.request.model"
RESPONSE_MODEL: Final = "gen_ai.response.model"
#: Why the model stopped, a list.
FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
#: Tokens of the prompt, those read from the provider's cache among them, and tokens of the answer.
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
#: Session or run that the call belongs to.
CONVERSATION_ID: Final = "gen_ai.conversation.id"
#: Agent that speaks, without its version.
AGENT_NAME: Final = "gen_ai.agent.name"
#: Tool that is called.
TOOL_NAME: Final = "gen_ai.tool.name"

# --- operations ------------------------------------------------------------------------------------------------------

CHAT: Final = "chat"
INVOKE_AGENT: Final = "invoke_agent"
EXECUTE_TOOL: Final = "execute_tool"
