"""OpenAI's dialects, and what servers that imitate it share with it."""
