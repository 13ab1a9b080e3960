"""JSON log lines on standard output: a fixed sentence plus fields."""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Final

import msgspec

from services.meshkit.core.imports import without
from services.meshkit.telemetry import names
from services.meshkit.telemetry.redact import redact
from services.meshkit.telemetry.scope import current_scope

# It would draw tracebacks for a terminal; ours are JSON.
with without("rich"):
    import structlog
    from structlog.typing import FilteringBoundLogger, Processor

_LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def logger(name: str) -> FilteringBoundLogger:
    """Gives the logger of a module: `log = logger(__name__)`."""
    return structlog.get_logger(module=name)


def setup_logs(level: str) -> None:
    """Sends our log lines and those of libraries to standard output as JSON. Safe to call again."""
    shared: list[Processor] = [
        _add_scope,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _redact,
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer(serializer=_encode)],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.BytesLoggerFactory(sys.stdout.buffer),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(serializer=_encode_text),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(_LEVELS[level], logging.WARNING))


def _add_scope(_logger: Any, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    scope = current_scope()
    if scope.service:
        line.setdefault(names.LOG_SERVICE, scope.service)
    if scope.correlation_id:
        line.setdefault(names.LOG_CORRELATION_ID, scope.correlation_id)
    if scope.trace_id:
        line.setdefault(names.LOG_TRACE_ID, scope.trace_id)
    return line


def _redact(_logger: Any, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return redact(line)


def _encode(line: Any, **_options: Any) -> bytes:
    return msgspec.json.encode(line, enc_hook=str)


def _encode_text(line: Any, **_options: Any) -> str:
    return _encode(line).decode()
