"""Logs as lines of JSON that hold nothing a client wrote: no ids, no histories, no paths, no messages."""

import json
import logging
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import TextIO

logger = logging.getLogger(__name__)


class JsonLines(logging.Formatter):
    """A line of JSON for each record; fields of `extra={"fields": ...}` are added.

    Of an exception only its type and the places in the code are told: its message may quote a request.
    """

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        line: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage().split("\n", 1)[0],
        }
        line |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[0] is not None:
            frames = traceback.extract_tb(record.exc_info[2])
            line["exception"] = record.exc_info[0].__name__
            line["frames"] = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
        return json.dumps(line, ensure_ascii=False)


def log_as_json() -> None:
    """Send the logs of this process to standard error as JSON lines; uvicorn's access log stays off."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for name in ("uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    warnings.showwarning = _log_warning
    access = logging.getLogger("uvicorn.access")
    access.handlers.clear()
    access.propagate = False


def _log_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """A library's warning as a log line of its kind and place: its text may quote what was read."""
    place = f"{Path(filename).name}:{lineno}"
    logger.warning("a library warns", extra={"fields": {"warning": category.__name__, "place": place}})
