"""The exception for errors that the user can fix, and helpers for one-line messages."""


class UserError(Exception):
    """Bad input. The message is one clear sentence that names the thing and the fix.

    Command lines print it without a traceback and exit with code 2. Messages quote what users and files say: their text
    has no control characters, and the middle of a long one is elided.
    """

    def __str__(self) -> str:
        return one_line(super().__str__())


def first_line(error: object) -> str:
    """Returns the first line of an error, or the name of its class if the message is empty."""
    text = str(error).strip()
    return text.split("\n")[0].rstrip() if text else type(error).__name__


def one_line(message: object, most: int = 1500) -> str:
    """Returns a message for a terminal: control characters are escaped, and the middle of a long one is elided.

    Messages quote user input, which may contain anything.
    """
    text = "".join(c if c.isprintable() else _spelled(c) for c in str(message).strip())
    return text if len(text) <= most else f"{text[: most * 2 // 3]} ... {text[-most // 3 :]}"


def spelled_out(text: str) -> str:
    """Returns a text of any lines for a terminal, which obeys control characters: those but line ends and tabs are
    escaped.
    """
    return "".join(c if c.isprintable() or c in "\n\t" else _spelled(c) for c in text)


def _spelled(character: str) -> str:
    return character.encode("unicode_escape").decode()


def did_you_mean(name: str, known: list[str] | tuple[str, ...]) -> str:
    """Returns `'; did you mean "x"?'` for the closest of `known`, or the list of all of them."""
    import difflib

    close = difflib.get_close_matches(name, known, n=1)
    return f'; did you mean "{close[0]}"?' if close else f"; known: {', '.join(sorted(known))}"
