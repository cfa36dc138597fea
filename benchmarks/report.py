"""`python -m benchmarks.report`: makes the table in `benchmarks/README.md` and the plots from `benchmarks/results`."""

import json
from pathlib import Path
from typing import Any

from prefix_jax.disk import write_text
from prefix_jax.reporting.svg.markup import Markup, tag
from prefix_jax.reporting.svg.page import document, section
from prefix_jax.reporting.svg.plots import Series, line_chart
from prefix_jax.reporting.tables import markdown_table, write_between_markers

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results"
DTYPES = ("float32", "bfloat16")
FOOTER = "Written by benchmarks.report from benchmarks/results; this page fetches nothing."


def read(results: Path = RESULTS) -> dict[str, Any]:
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*.json"))}


def _compared(case: str, result: dict[str, Any]) -> dict[str, dict]:
    """Returns the parts of a result in which both sides took part, by the names of the table's rows."""
    if case == "train":
        return {"training": result}
    return {name: result[name] for name in ("greedy", "beam 5")} if case == "generate" else {}


def comparisons(found: dict[str, Any]) -> list[list[object]]:
    """Returns a row for each case in which both sides took part."""
    rows: list[list[object]] = []
    for name, result in found.items():
        case, _, source = name.partition("_")
        for label, part in _compared(case, result).items():
            median, ratios = part["median"], part["ratios"]
            rates = [f"{median[f'{side} {d}']:.0f}" for side in ("peft", "ours") for d in DTYPES]
            peaks = [part["peak_bytes"][f"ours {d}"] / part["peak_bytes"][f"peft {d}"] for d in DTYPES]
            memory = [f"{peak:.2f}" for peak in peaks]
            speed = [f"{ratios[n]:.1f}x" for n in ("over PEFT float32", "over PEFT's best")]
            rows.append([label, source, *rates, *speed, " / ".join(memory)])
    return rows


COLUMNS = [
    "case", "model", "PEFT f32", "PEFT bf16", "ours f32", "ours bf16", "best over PEFT f32", "best over best",
    "peak memory over PEFT's, f32 / bf16",
]  # fmt: skip


def others(found: dict[str, Any]) -> list[list[object]]:
    """Returns rows of what has no counterpart."""
    rows: list[list[object]] = []
    for name, result in found.items():
        case, _, source = name.partition("_")
        if case == "start":
            rows += [
                ["seconds to the first step, cold / warm compile cache", source, f"{result['cold']} / {result['warm']}"]
            ]
        if case == "roofline":
            shares = [f"{100 * result[d]['share']:.0f} %" for d in DTYPES]
            rows += [["share of the matrix-product roofline, f32 / bf16", source, " / ".join(shares)]]
        if case == "members":
            pairs = {r: v for r, v in result["compare"].items() if isinstance(v, dict)}
            gains = " / ".join(f"{pair['gain']:.2f}x" for pair in pairs.values())
            rows += [[f"8 members together over 8 in turn, at {' / '.join(pairs)} records a step", source, gains]]
    return rows


def plots(found: dict[str, Any]) -> list[Markup]:
    """Returns the growth curves as figures, as far as they were measured."""
    figures = []
    for name, result in found.items():
        case, _, source = name.partition("_")
        for what in ("prefix", "sequence", "batch") if case == "growth" else ():
            rows = [row for row in result.get(what, {}).get("rows", ()) if "forward_seconds" in row]
            if not rows:
                continue
            first = rows[0]
            x = [row["x"] for row in rows]
            lines = [
                Series("seconds", x, [row["seconds"] / first["seconds"] for row in rows], "points"),
                Series("FLOPs", x, [row["flops"] / first["flops"] for row in rows], "faint"),
            ]
            chart = line_chart(
                lines, title=f"{source}: a step against {what}", x_label=what, y_label=f"over {what} {x[0]}",
                at_points=True,
            )  # fmt: skip
            figures.append(tag("figure", tag("figcaption", tag("h3", f"{source}, {what}")), chart, class_="card"))
    return figures


def main() -> None:
    found = read()
    tables = [markdown_table(comparisons(found), COLUMNS), markdown_table(others(found), ["what", "model", "figure"])]
    write_between_markers(FOLDER / "README.md", "\n\n".join(tables))
    if figures := plots(found):
        shown = section("growth", "Cost against prefix, sequence and batch", tag("div", figures, class_="charts"))
        page = document("Benchmarks", tag("h1", "Benchmarks"), [shown], [("growth", "Growth")], FOOTER)
        write_text(RESULTS / "growth.html", page)


if __name__ == "__main__":
    main()
