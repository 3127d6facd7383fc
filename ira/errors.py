"""The one exception for input that cannot be used: its message is one line a user can act on."""


class InputError(ValueError):
    """Bad input, configuration or environment.

    The message says what was given, what is wanted and what to do, in one line. The command line prints it to
    stderr without a traceback and ends with exit code 2.
    """
