"""What LiteLLM's proxy asks who a caller is: every key has the budget that the bench names. Run by `overspend`."""

# pyright: reportMissingImports=false, reportUnknownVariableType=false, reportUnknownParameterType=false
# In an environment of its own.

import os

from fastapi import Request
from litellm.proxy._types import UserAPIKeyAuth

CAP_USD = float(os.environ["OVERSPEND_CAP_USD"])


async def allow(request: Request, api_key: str) -> UserAPIKeyAuth:
    return UserAPIKeyAuth(api_key=api_key, max_budget=CAP_USD, spend=0.0)
