"""Runs memory: `python -m services.memory`."""

from services.meshkit.core.imports import for_good

with for_good():
    from services.memory.settings import MemorySettings
    from services.memory.wiring import memory
    from services.meshkit.process import run_service

if __name__ == "__main__":
    run_service("memory", MemorySettings, memory)
