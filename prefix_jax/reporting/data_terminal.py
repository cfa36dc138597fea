"""What a configuration's data become (`inspection.data_summary`), as text for a terminal: one screen."""

from collections.abc import Mapping, Sequence
from typing import Any

from prefix_jax.reporting.tables import cell_text, text_table, text_width

# Escape sequences of the kinds of tokens: masked is dim, the source blue, what has a loss bold green.
_COLOURS = {"masked": "\x1b[2m", "source": "\x1b[34m", "target": "\x1b[1;32m"}
_RESET = "\x1b[0m"
# Without colours: the marks around a run of tokens of a kind.
_MARKS = {"masked": ("<", ">"), "source": ("{", "}"), "target": ("[", "]")}
_EIGHTHS = " ▏▎▍▌▋▊▉█"
COLUMNS = (
    "split",
    "records",
    "inputs",
    "duplicates",
    "source: median",
    "95 %",
    "most",
    "target: median",
    "95 %",
    "most",
)


def data_text(summary: Mapping[str, Any], width: int = 100, colour: bool = False) -> str:
    """Returns the splits, the lengths of the training records as a picture, findings, and rows as tokens."""
    parts = [_title(summary), *_reading(summary["splits"]), "", _table(summary["splits"])]
    train = summary["splits"]["train"]
    if "target" in train:
        parts += ["", *_histograms(train, width), *_packing(summary)]
    findings = [line for split, entry in summary["splits"].items() for line in _findings(split, entry)]
    parts += ["", *findings] if findings else []
    parts += ["", _legend(summary, colour), *_rows(summary["rows"], width, colour)] if summary["rows"] else []
    return "\n".join(parts)


def _title(summary: Mapping[str, Any]) -> str:
    return f"{summary['task']} for {summary['model']}, method {summary['method']}"


def _reading(splits: Mapping[str, Any]) -> list[str]:
    return [cell_text(entry.get("read") or f"{split}: none ({entry['missing']})") for split, entry in splits.items()]


def _table(splits: Mapping[str, Any]) -> str:
    rows = [
        [split, *(entry[name] for name in ("records", "inputs", "duplicates")), *_of(entry, "source"),
         *_of(entry, "target")]
        for split, entry in splits.items() if "records" in entry
    ]  # fmt: skip
    return text_table(rows, COLUMNS)


def _of(entry: Mapping[str, Any], side: str) -> list[int | None]:
    found = entry.get(side)
    return [round(found[name]) for name in ("median", "p95", "max")] if found else [None] * 3


def _histograms(train: Mapping[str, Any], width: int) -> list[str]:
    """Returns the histograms of both sides beside each other."""
    half = (width - 4) // 2
    if "source" not in train:
        return _histogram(train["target"], "tokens of a window (train)", half)
    names = train.get("names", {})
    left, right = (
        _histogram(train[side], f"tokens of a {names.get(side, side)} (train)", half) for side in ("source", "target")
    )
    height = max(len(left), len(right))
    left, right = (lines + [""] * (height - len(lines)) for lines in (left, right))
    return [f"{a}{' ' * (half - text_width(a))}    {b}".rstrip() for a, b in zip(left, right, strict=True)]


def _histogram(found: Mapping[str, Any], title: str, width: int) -> list[str]:
    bars = found["histogram"]
    names = [f"{low:,}" if low == high else f"{low:,}-{high:,}" for low, high, _ in bars]
    wide, most = max(map(len, names)), max(count for _, _, count in bars)
    room = max(width - wide - len(f"{most:,}") - 3, 8)
    drawn = [bar(count / most * room) for _, _, count in bars]
    shown = zip(names, drawn, bars, strict=True)
    return [title, *(f"{name:>{wide}} {picture} {count:,}" for name, picture, (_, _, count) in shown)]


def bar(length: float) -> str:
    """Returns a bar of a length in columns, to an eighth; one that is not empty is seen."""
    eighths = max(round(length * 8), 1) if length > 0 else 0
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def _packing(summary: Mapping[str, Any]) -> list[str]:
    found = summary["packing"]
    if not found:
        return []
    told = f"a step: {found['rows']} rows of {found['first']} and {found['second']} tokens"
    told += f", {found['records_per_step']:.1f} records, {100 * found['fill']:.0f} % full"
    return ["", f"{told}; {found['steps']:,} steps, {found['steps_per_epoch']:,} an epoch"]


def _findings(split: str, entry: Mapping[str, Any]) -> list[str]:
    lines = [
        cell_text(f"{split}: {line}") for line in (*entry.get("warnings", ()), *entry.get("findings", {}).values())
    ]
    if shared := entry.get("sources_of_training"):
        lines.append(f"{split}: {shared:,} of its {entry['inputs']:,} inputs are sources of training records too")
    return lines


def _legend(summary: Mapping[str, Any], colour: bool) -> str:
    kinds = {"masked": "masked: no loss", "source": "source: no loss", "target": "target: loss"}
    told = "  ".join(_painted(kind, about, colour) for kind, about in kinds.items())
    count = summary["virtual_tokens"]
    return told + (f"  after {count:,} virtual tokens" if count else "")


def _rows(rows: Sequence[Mapping[str, Any]], width: int, colour: bool) -> list[str]:
    """Returns each row: what is read on one line, which a terminal may break, and the target on the next."""
    lines = []
    for row in rows:
        lines.append(row["id"])
        painted = [_painted(part["kind"], _cut(part["tokens"], 2 * width - 8), colour) for part in row["parts"]]
        lines += [f"  {''.join(painted[:-1])}", f"  {painted[-1]}"]
    return lines


def _cut(tokens: Sequence[str], most: int) -> str:
    """Returns tokens with dots between them; of too many, the first and the last."""
    text = "·".join(cell_text_of_token(token) for token in tokens)
    return text if len(text) <= most else f"{text[: most * 2 // 3]} ... {text[-most // 3 :]}"


def cell_text_of_token(token: str) -> str:
    """Returns a token on one line, its spaces kept."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in token)


def _painted(kind: str, text: str, colour: bool) -> str:
    if colour:
        return f"{_COLOURS[kind]}{text}{_RESET}"
    before, after = _MARKS[kind]
    return f"{before}{text}{after}"
