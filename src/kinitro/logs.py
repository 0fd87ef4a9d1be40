"""Structured logs on stderr: key=value on a terminal, JSON for machines. Secrets are masked here, for every service."""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, Literal

import structlog

LogFormat = Literal["console", "json"]
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]

_SECRET_KEY = re.compile(r"(token|secret|password|api_key|authorization|salt)$", re.IGNORECASE)
_SECRET_TEXT = re.compile(
    r"(?P<url>://[^:/@\s]+:)[^@\s]+(?=@)|(?P<bearer>[Bb]earer\s+)\S+|(?P<named>\b(?:hf|basilica)_)[A-Za-z0-9]{8,}"
)


def mask(text: str) -> str:
    """Hides passwords in URLs, bearer keys and hub tokens in a piece of text."""
    return _SECRET_TEXT.sub(lambda m: (m["url"] or m["bearer"] or m["named"] or "") + "***", text)


def printable(text: str, limit: int = 2000) -> str:
    """A stranger's text as it may stand on a terminal: one line, no control codes, at most `limit` characters."""
    return "".join(each if each.isprintable() else "?" for each in text[:limit])


def _mask_secrets(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    # Any: structlog's processor signature.
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = "***" if _SECRET_KEY.search(key) and value else mask(value)
    return event


def _part_last(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """What happened comes first, in the order in which it was written; then where."""
    if "part" in event:
        event["part"] = event.pop("part")
    return event


def configure_logging(level: LogLevel = "INFO", log_format: LogFormat = "console") -> None:
    """Sets up structlog and the standard library's logging for this process. Called once, by the command line."""
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        _mask_secrets,
        _part_last,
    ]
    renderer: structlog.types.Processor = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=24, sort_keys=False)
    )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level)),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # Libraries speak at WARNING; our own events carry what an operator needs.
    root.setLevel(logging.WARNING if level != "DEBUG" else logging.INFO)


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger whose events carry the part of the system they come from."""
    logger: structlog.stdlib.BoundLogger = structlog.get_logger(part=name)
    return logger
