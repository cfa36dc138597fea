"""HTML and SVG as nested function calls with automatic escaping."""

import html
import re
from collections.abc import Iterable

# Control characters and lone surrogates, which files cannot contain.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_VOID = frozenset({"meta", "link", "br", "hr", "img", "input"})


class Markup(str):
    """Text that is already markup; any other `str` is escaped when used as a child."""


def escape(text: object) -> Markup:
    """Escapes text for use in an element or a quoted attribute; unprintable characters become U+FFFD."""
    return text if isinstance(text, Markup) else Markup(html.escape(printable(str(text))))


def printable(text: str) -> str:
    """Returns the text with U+FFFD for each character that a file cannot contain."""
    return _UNPRINTABLE.sub("\ufffd", text)


def join(children: Iterable[object]) -> Markup:
    """Joins children, flattening nested lists; `None` is skipped."""
    parts = []
    for child in children:
        if isinstance(child, (list, tuple)):
            parts.append(join(child))
        elif child is not None:
            parts.append(escape(child))
    return Markup("".join(parts))


def tag(tag_name: str, *children: object, **attributes: object) -> Markup:
    """Returns `<tag_name attributes>children</tag_name>`.

    In attribute names a trailing underscore is removed and other underscores become hyphens: `class_="x"`,
    `aria_label="y"`. `None` and `False` omit an attribute, `True` omits its value.
    """
    written = []
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        name = name.rstrip("_").replace("_", "-")
        written.append(f" {name}" if value is True else f' {name}="{escape(value)}"')
    start = f"<{tag_name}{''.join(written)}>"
    return Markup(start if tag_name in _VOID else f"{start}{join(children)}</{tag_name}>")
