"""The one exception that means: the user can correct this; what errors of others say."""


class UserError(Exception):
    """Bad input. The message is one clear sentence that names the thing and the mend.

    Command lines print it without a traceback and exit with code 2.
    """


def first_line(error: object) -> str:
    """Returns the first line of an error, or the name of its class where it says nothing."""
    text = str(error).strip()
    return text.split("\n")[0].rstrip() if text else type(error).__name__


def did_you_mean(name: str, known: list[str] | tuple[str, ...]) -> str:
    """Returns `'; did you mean "x"?'` for the closest of `known`, or the list of all of them."""
    import difflib

    close = difflib.get_close_matches(name, known, n=1)
    return f'; did you mean "{close[0]}"?' if close else f"; known: {', '.join(sorted(known))}"
