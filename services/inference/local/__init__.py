"""The local model: a process of its own with an OpenAI-compatible door on the loopback (`python -m …local`)."""
