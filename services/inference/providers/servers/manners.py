"""How servers that speak OpenAI's chat dialect depart from it, as their documentation and their issues show.

They take the older name of the limit, and their templates drop the names of speakers. Where usage is missing, it stays
unknown and the hold is charged at its bound: an estimate of ours would be a price that nobody can check.
"""

from dataclasses import replace
from typing import Final

from services.inference.providers.openai.chat_wire import JsonForm, Manners, ToolChoices

_PENALTIES: Final = frozenset({"top_p", "seed", "frequency_penalty", "presence_penalty"})

#: One of which nobody knows more: it is told what all of them take.
COMPATIBLE: Final = Manners(
    limit_field="max_tokens",
    names=False,
    pdfs=False,
    ends_with_done=False,
    json_form=JsonForm.WORDS,
    parallel_tool_calls=False,
    sampling=_PENALTIES,
)
#: https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html
VLLM: Final = Manners(
    limit_field="max_tokens",
    names=False,
    pdfs=False,
    ends_with_done=False,
    strict_subset=False,
    sampling=_PENALTIES | {"top_k", "reasoning_effort"},
)
#: https://huggingface.co/docs/text-generation-inference: a schema is the value of `response_format`.
TGI: Final = Manners(
    limit_field="max_tokens",
    names=False,
    pdfs=False,
    ends_with_done=False,
    json_form=JsonForm.VALUE,
    parallel_tool_calls=False,
    sampling=_PENALTIES,
)
#: https://docs.ollama.com/openai: `tool_choice` is passed over, so it is not sent.
OLLAMA: Final = Manners(
    limit_field="max_tokens",
    names=False,
    pdfs=False,
    ends_with_done=False,
    strict_subset=False,
    tool_choices=ToolChoices.NOTHING,
    parallel_tool_calls=False,
    sampling=_PENALTIES | {"reasoning_effort"},
)
#: https://github.com/ggml-org/llama.cpp/tree/master/tools/server: a schema becomes a grammar; of a choice of tools it
#: knows the modes.
LLAMA_CPP: Final = Manners(
    limit_field="max_tokens",
    names=False,
    pdfs=False,
    ends_with_done=False,
    strict_subset=False,
    tool_choices=ToolChoices.MODES,
    sampling=_PENALTIES | {"top_k"},
)
#: The local model process: llama.cpp with a model whose template knows no tools, so that none can be asked for.
LOCAL: Final = replace(LLAMA_CPP, tool_choices=ToolChoices.NOTHING, parallel_tool_calls=False)
