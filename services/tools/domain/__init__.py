"""The rules of tools: what a definition may hold, who may call it and how often, what a result is worth."""
