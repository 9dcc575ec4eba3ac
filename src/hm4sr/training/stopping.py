"""Being told to stop: signals are noted, and obeyed where nothing is half done."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

from hm4sr.errors import StoppedError

_SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)
]


class StopSignals:
    """Within this context Ctrl-C, SIGTERM and SIGHUP wait for the end of a training step.

    A weight must not be moved half way, or its state could not be saved. So a signal is only noted, and
    `check` raises between two steps. The second signal raises at once, wherever that is. Signals that the
    process was started to ignore stay ignored; outside of the main thread nothing changes.

    Args:
        active: False leaves all signals alone.
    """

    def __init__(self, active: bool = True):
        self._active = active and threading.current_thread() is threading.main_thread()
        self._before: dict[int, Any] = {}
        self._noted = 0
        self._at_once = False

    def __enter__(self) -> Self:
        if self._active:
            for number in _SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def noted(self) -> bool:
        """Whether a signal has come."""
        return bool(self._noted)

    def check(self) -> None:
        """Stop here if a signal has come.

        Raises:
            StoppedError: one has.
        """
        if self._noted:
            raise StoppedError(self._noted)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within this context a signal stops at once: for long work that changes no weights."""
        self._at_once = True
        try:
            self.check()
            yield
        finally:
            self._at_once = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        again, self._noted = self._noted, number
        if again or self._at_once:
            raise StoppedError(number)
