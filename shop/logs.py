"""Structured logs. What a client sent is never written raw: values are rendered as JSON, or escaped for the console.

To log never raises: a disk that is full, or a pipe that nobody reads any more, costs the line and not what it is about.
"""

import logging
import sys

import structlog

from shop import metrics
from shop.settings import Settings


class StandardError:
    """Writes to what standard error is just now, and counts the lines that could not be written."""

    def __init__(self, *_: object) -> None:
        """One for each logger; structlog gives it what the logger was asked for with."""

    def msg(self, line: str) -> None:
        """Write one line."""
        if sys.stderr is None:  # The process was started without one.
            return
        try:
            sys.stderr.write(line + "\n")
            sys.stderr.flush()
        except (OSError, ValueError):  # ValueError: it is closed
            metrics.LOG_LINES_LOST.inc()

    debug = info = warning = error = critical = exception = msg


def configure_logs(settings: Settings) -> None:
    """Send the shop's events and the libraries' warnings to standard error in one format."""
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    console = settings.log_format == "console"
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
    ]
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()) if console else structlog.processors.JSONRenderer()
    )
    if console:
        shared.append(_escape)
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=StandardError,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processor=renderer, foreign_pre_chain=shared))
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler], force=True)


def _escape(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Show what a terminal would obey; a traceback keeps its lines, indented, so that none looks like an event."""
    escaped = {name: _visible(value) if isinstance(value, str) else value for name, value in event.items()}
    if "exception" in event:
        escaped["exception"] = "\n".join(f"    {_visible(line)}" for line in event["exception"].splitlines())
    return escaped


def _visible(text: str) -> str:
    return text if text.isascii() and text.isprintable() else ascii(text)
