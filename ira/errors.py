"""The one exception for input that cannot be used: its message is one line a user can act on."""

LONGEST = 3000  # characters of a message; what is given may be a page


class InputError(ValueError):
    """Bad input, configuration or environment.

    The message says what was given, what is wanted and what to do, in one line. The command line prints it to
    stderr without a traceback and ends with exit code 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def one_line(text: str) -> str:
    """Text that may hold anything (a file name, say) as one line that moves no cursor: `\\n`, `\\x1b`, `\\u202e`.

    The middle of a long text is left out: what was given stands at its start and what to do at its end.
    """
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
