"""Any server that speaks OpenAI's dialect, the local model process among them: Ollama, vLLM, TGI, llama.cpp.

They take the older name of the limit, and their templates drop the names of speakers. Where usage is missing, it stays
unknown and the hold is charged at its bound: an estimate of ours would be a price that nobody can check.
"""

from services.inference.providers.openai.chat import OpenAiProvider
from services.inference.providers.openai.chat_wire import LimitField


class OpenAiCompatibleProvider(OpenAiProvider):
    """Asks a server that speaks OpenAI's dialect in its own accent."""

    limit_field: LimitField = "max_tokens"
    names = False
    ends_with_done = False
