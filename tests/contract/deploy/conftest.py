"""Images as the Dockerfile describes them, laid out once for all tests."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.dockerfile import Dockerfile, assemble, read_dockerfile


@pytest.fixture(scope="session")
def dockerfile() -> Dockerfile:
    return read_dockerfile()


@pytest.fixture(scope="session")
def laid_out(dockerfile: Dockerfile, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the folder of an image."""
    done: dict[str, Path] = {}

    def lay_out(image: str) -> Path:
        if image not in done:
            done[image] = tmp_path_factory.mktemp(image)
            assemble(dockerfile.files(image), done[image])
        return done[image]

    return lay_out
