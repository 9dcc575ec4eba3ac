"""The one exception for mistakes a user can mend."""


class UserError(ValueError):
    """Bad input: one sentence that says what is wrong, where it is, and what to do.

    The command line prints it without a traceback and exits with code 2.
    """
