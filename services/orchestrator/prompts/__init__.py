"""The prompt files, read once at start and pinned by each run."""

from collections.abc import Mapping
from importlib.resources import files


def load_prompts() -> Mapping[str, str]:
    """Reads every prompt file that ships with the orchestrator, by file name."""
    return {
        file.name: file.read_text(encoding="utf-8")
        for file in sorted(files(__name__).iterdir(), key=lambda entry: entry.name)
        if file.name.endswith(".j2")
    }
