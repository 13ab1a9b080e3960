"""What is logged, for tests that look at it."""

from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from structlog.testing import capture_logs
from structlog.typing import EventDict


@contextmanager
def log_lines() -> Iterator[list[EventDict]]:
    """Gives what is logged within the block, whatever level another test has set."""
    config = structlog.get_config()
    structlog.reset_defaults()
    try:
        with capture_logs() as lines:
            yield lines
    finally:
        structlog.configure(**config)
