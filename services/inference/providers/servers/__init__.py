"""Servers that speak OpenAI's dialect in an accent of their own."""
