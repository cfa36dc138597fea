"""What a configuration's data become (`inspection.data_summary`), as a page."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefix_jax.disk import write_text
from prefix_jax.reporting.data_terminal import COLUMNS, cell_text_of_token
from prefix_jax.reporting.figures import NARROW, WIDE, Figure, card
from prefix_jax.reporting.svg.bars import bars
from prefix_jax.reporting.svg.markup import Markup, join, tag
from prefix_jax.reporting.svg.page import document, scrolling, section

FOOTER = "Written by prefix_jax; this page fetches nothing."
_MOST = 400  # tokens of a part that are shown


def write_data_page(path: Path, summary: Mapping[str, Any]) -> None:
    """Writes the page atomically."""
    write_text(path, data_page(summary))


def data_page(summary: Mapping[str, Any]) -> str:
    """Returns the page as text."""
    title = f"{summary['task']} for {summary['model']}"
    built = [
        ("splits", "Splits", _splits(summary["splits"])),
        ("lengths", "Lengths", _lengths(summary["splits"])),
        ("findings", "Findings", _findings(summary["splits"])),
        ("rows", "Rows as tokens", _rows(summary)),
    ]
    shown = [(anchor, name, body) for anchor, name, body in built if body is not None]
    opening = join(
        [tag("p", "prefix_jax: data", class_="kicker"), tag("h1", title), tag("p", _lede(summary), class_="lede")]
    )
    links = [(anchor, name) for anchor, name, _ in shown]
    return document(f"Data: {title}", opening, [section(*one) for one in shown], links, FOOTER)


def _lede(summary: Mapping[str, Any]) -> str:
    packing = summary["packing"]
    if not packing:
        return "A run would refuse these data; the findings say why."
    return (
        f"{packing['steps']:,} steps of {packing['records_per_step']:.1f} records, in {packing['rows']} rows of "
        f"{packing['first']} and {packing['second']} tokens that are {100 * packing['fill']:.0f} % full."
    )


def _splits(splits: Mapping[str, Any]) -> Markup:
    read = [tag("li", entry.get("read") or f"{split}: none ({entry['missing']})") for split, entry in splits.items()]
    rows = []
    for split, entry in splits.items():
        if "records" not in entry:
            continue
        cells: list[Any] = [entry[name] for name in ("records", "inputs", "duplicates")]
        for side in ("source", "target"):
            found = entry.get(side)
            cells += [round(found[name]) for name in ("median", "p95", "max")] if found else ["-"] * 3
        numbers = [tag("td", f"{cell:,}" if isinstance(cell, int) else cell, class_="number") for cell in cells]
        rows.append(tag("tr", tag("th", split, scope="row"), numbers))
    heads = [tag("th", name, scope="col", class_="number" if i else None) for i, name in enumerate(COLUMNS)]
    table = tag("table", tag("thead", tag("tr", heads)), tag("tbody", rows))
    return join([tag("div", scrolling(table, "Splits"), class_="card"), tag("ul", read, class_="about below")])


def _lengths(splits: Mapping[str, Any]) -> Markup | None:
    cards = []
    for split, entry in splits.items():
        for side in ("source", "target"):
            if side in entry:
                name = f"Tokens of a {entry.get('names', {}).get(side, side)}, {split}"
                rows = entry[side]["histogram"]
                both = [
                    bars(rows, title=name, x_label="tokens", y_label="records", width=width) for width in (WIDE, NARROW)
                ]
                columns = ("tokens from", "to", "records")
                cards.append(card(Figure(f"lengths_{split}_{side}", name, both[0], columns, rows, narrow=both[1])))
    return tag("div", cards, class_="charts two") if cards else None


def _findings(splits: Mapping[str, Any]) -> Markup | None:
    lines = [
        tag("li", f"{split}: {line}")
        for split, entry in splits.items()
        for line in (*entry.get("warnings", ()), *entry.get("findings", {}).values())
    ]
    return tag("div", tag("ul", lines), class_="card") if lines else None


def _rows(summary: Mapping[str, Any]) -> Markup | None:
    if not summary["rows"]:
        return None
    count = summary["virtual_tokens"]
    after = f" {count:,} virtual tokens come before them." if count else ""
    kinds = {"masked": "masked, without a loss", "source": "source, without a loss", "target": "target, with the loss"}
    key = [tag("span", tag("span", about, class_=f"token {kind}"), " ") for kind, about in kinds.items()]
    cards = [_row(row) for row in summary["rows"]]
    return join([tag("p", key, after, class_="about"), tag("div", cards, class_="stack")])


def _row(row: Mapping[str, Any]) -> Markup:
    parts: list[object] = []
    for part in row["parts"]:
        tokens = [cell_text_of_token(token) for token in part["tokens"]]
        parts += [tag("span", token, class_=f"token {part['kind']}") for token in tokens[:_MOST]]
        parts += [f" and {len(tokens) - _MOST:,} more "] if len(tokens) > _MOST else []
    return tag("div", tag("h3", row["id"]), tag("p", parts, class_="tokens"), class_="card")
