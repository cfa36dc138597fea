"""Layout shared by all reports: a single self-contained HTML file."""

from collections.abc import Sequence

from prefix_jax.reporting.svg.markup import Markup, tag
from prefix_jax.reporting.svg.theme import STYLE

# Prevents the page from fetching or running anything, even if its content asks for it.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
FOOTER = "Written by prefix_jax from the files of the run directory; this page fetches nothing."


def document(
    title: str, opening: object, sections: Sequence[object], links: Sequence[tuple[str, str]], footer: str = FOOTER
) -> str:
    """Returns a page: `opening` above the links, as (anchor, text), to the sections."""
    items = [tag("li", tag("a", text, href=f"#{anchor}")) for anchor, text in links]
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("title", title),
        tag("style", Markup(STYLE)),
    )
    body = tag(
        "body",
        tag("a", "To the content", href="#content", class_="skip"),
        tag("header", opening, tag("nav", tag("ul", items), aria_label="Sections"), class_="top"),
        tag("main", *sections, id="content"),
        tag("footer", footer),
    )
    return "<!doctype html>\n" + tag("html", head, body, lang="en") + "\n"


def section(anchor: str, title: str, body: Markup) -> Markup:
    """Returns a section with its heading."""
    heading = f"{anchor}-title"
    return tag("section", tag("h2", title, id=heading), body, id=anchor, aria_labelledby=heading)


def scrolling(child: Markup, label: str) -> Markup:
    """Returns what is wider than a narrow screen, such as a table: it scrolls, by keys too, and its edges show it."""
    return tag("div", child, class_="scroll", tabindex="0", role="region", aria_label=label)
