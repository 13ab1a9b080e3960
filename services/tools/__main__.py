"""Runs tools: `python -m services.tools`."""

from services.meshkit.core.imports import for_good

with for_good():
    from services.meshkit.process import run_service
    from services.tools.settings import ToolsSettings
    from services.tools.wiring import tools

if __name__ == "__main__":
    run_service("tools", ToolsSettings, tools)
