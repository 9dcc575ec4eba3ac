"""The exceptions for what a user can mend, and for being told to stop."""

import signal


class UserError(ValueError):
    """Bad input: one sentence that says what is wrong, where it is, and what to do.

    The command line prints it without a traceback and exits with code 2.
    """


class WritingError(UserError):
    """A full disk, missing rights and the like: no fault of what was to be written."""

    def advised(self, advice: str) -> "WritingError":
        """The same with what only the caller knows to do about it, without the full stop."""
        return WritingError(f"{str(self).removesuffix('.')}, {advice}.")


class DivergedError(UserError):
    """A loss, score or vector is no number: the fault of the settings, mostly of the learning rate."""


class StoppedError(KeyboardInterrupt):
    """Stopped by a signal, at a moment when nothing is half done.

    Like KeyboardInterrupt it is no `Exception`, so that nothing mistakes it for a failure. The command line
    exits with 128 and the signal's number: 130 for Ctrl-C, 143 for SIGTERM.

    Args:
        signum: number of the signal.
        where: how far the work had come and what is kept; empty if nothing is known about that.
    """

    def __init__(self, signum: int = signal.SIGINT, where: str = ""):
        super().__init__(where)
        self.signum = int(signum)
        self.where = where

    @property
    def exit_code(self) -> int:
        """What a shell reports for a program that ended by this signal."""
        return 128 + self.signum
