"""The tables and plots of what was counted and measured, from `results/` alone."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments import results
from experiments.readme import spread_text, values
from prefix_jax.disk import write_text
from prefix_jax.reporting.svg.markup import Markup
from prefix_jax.reporting.svg.plots import Series, line_chart
from prefix_jax.reporting.svg.standalone import standalone
from prefix_jax.reporting.tables import markdown_table, write_between_markers

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results"
GIGA, MIB = 1e9, 2**20
# Studies that trained both methods with the same number of records: task, metric.
SCORED = (
    ("methods", "e2e", "BLEU"),
    ("extrapolation", "webnlg", "BLEU_seen"),
    ("extrapolation", "webnlg", "BLEU_unseen"),
)
BARE = "the bare model"


def write() -> None:
    """Writes the tables of `README.md` and the plots, as far as there are results."""
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))}
    costs = [result for name, result in found.items() if name.startswith("costs_")]
    parts = [text for result in costs for text in (f"**{_costs_title(result)}**", cost_table(result))]
    for result in costs:
        caption = f"Cost against prefix length: {result['model']}"
        write_text(FOLDER / f"growth_{result['model']}.svg", standalone(growth(result), caption))
    if latency := found.get("latency"):
        parts += [f"**{_latency_title(latency)}**", latency_table(latency)]
    if budget := found.get("budget"):
        parts += [f"**{_budget_title(budget)}**", budget_table(budget)]
        caption = f"Loss against prefix length in a full context: {budget['model']}"
        write_text(FOLDER / "budget.svg", standalone(budget_chart(budget), caption))
    parts += ["**Scores of both, where other studies here have them**", score_table()]
    write_between_markers(FOLDER / "README.md", "\n\n".join(parts))


def score_table() -> str:
    """Returns the scores of a prefix and of LoRA, means over seeds, from the studies that trained both alike."""
    rows: list[list[object]] = []
    for study, task, metric in SCORED:
        found = results.read(FOLDER.parent / study / results.FILE_NAME)
        usual = [r for r in found if r.option("prefix.reparameterisation") == "mlp" and r.scores]
        row: list[object] = [f"[`{study}`](../{study}/README.md)", metric]
        for method in ("prefix", "lora"):
            same = [result for result in usual if result.option("method") == method]
            row += [len(same), spread_text(task, metric, values(same, metric))]
        rows.append(row)
    return markdown_table(rows, ["study", "metric", "runs", "prefix", "runs", "LoRA, rank 8"])


def _costs_title(result: dict[str, Any]) -> str:
    shape = f"{result['rows']} rows of {result['columns']} tokens, {result['targets']} of each predicted"
    read = f"reading {result['columns']} tokens and writing one more"
    return f"{result['model']}, counted: a step of {shape}; {read} (commit `{result['commit']}`)"


def cost_table(result: dict[str, Any]) -> str:
    """Returns what each method multiplies and keeps, and that over the bare model's own."""
    forward, bare = result["forward_flops"], result["bare"]
    rows: list[list[object]] = [
        ["the loss alone, bare", None, *_training(forward, result["forward_temporary_bytes"], forward)]
    ]
    rows[0] += _inference(bare, bare)
    for row in result["methods"]:
        training = _training(row["step_flops"], row["temporary_bytes"], forward)
        rows.append([row["method"], row["stored"], *training, *_inference(row["inference"], bare)])
        if "merged" in row:
            rows.append([f"{row['method']}, merged", None, None, None, None, *_inference(row["merged"], bare)])
    columns = ["method", "stored", "step, GFLOP", "over the loss alone", "activations, MiB"]
    inference = ["reading, GFLOP", "reading, over bare", "a new token, MFLOP", "a new token, over bare"]
    return markdown_table(rows, [*columns, *inference])


def _training(operations: int, memory: int, forward: int) -> list[object]:
    return [round(operations / GIGA), f"{operations / forward:.2f}", round(memory / MIB)]


def _inference(cost: dict[str, int], bare: dict[str, int]) -> list[object]:
    read, token = cost["read"], cost["token"]
    return [
        f"{read / GIGA:,.1f}", f"{read / bare['read']:.3f}",
        f"{token / 1e6:,.1f}", f"{token / bare['token']:.3f}",
    ]  # fmt: skip


def growth(result: dict[str, Any]) -> Markup:
    """Returns a plot of operations and memory against prefix length, over those of the shortest prefix."""
    rows = result["lengths"]
    first, x = rows[0], [row["length"] for row in rows]
    token = [row["inference"]["token"] / first["inference"]["token"] for row in rows]
    lines = [
        Series("step, operations", x, [row["step_flops"] / first["step_flops"] for row in rows]),
        Series("step, activations", x, [row["temporary_bytes"] / first["temporary_bytes"] for row in rows], "points"),
        Series("a new token, operations", x, token, "faint"),
    ]
    return line_chart(
        lines, title=f"{result['model']}: cost against prefix length", x_label="prefix length",
        y_label=f"over length {x[0]}", width=640, height=280, log=False, at_points=True,
    )  # fmt: skip


def _latency_title(result: dict[str, Any]) -> str:
    how = f"greedy decoding of {result['new']} tokens after {result['prompt']}, medians of {result['rounds']} rounds"
    where = f"{result['model']} in {result['dtype']}, measured on {result['machine']}"
    return f"{where}: {how} (commit `{result['commit']}`)"


def latency_table(result: dict[str, Any]) -> str:
    """Returns the CPU time of a new token of each variant, in milliseconds, and over the bare model's."""
    batches = result["batches"]
    rows = []
    for name in next(iter(batches.values())):
        row: list[object] = [name]
        for found in batches.values():
            row += [f"{1000 * found[name]['cpu_seconds_a_token']:.1f}", f"{found[name]['over_bare']:.2f}"]
        rows.append(row)
    columns = [text for batch in batches for text in (f"{batch} at once, ms a token", f"over bare, {batch} at once")]
    return markdown_table(rows, ["decoding with", *columns])


def _budget_title(result: dict[str, Any]) -> str:
    records = f"{result['train']} records, {result['validation']} others for the loss"
    context = f"an encoder's context of {result['context']} tokens that the input nearly fills"
    commits = ", ".join(f"`{commit}`" for commit in sorted({case["commit"] for case in result["cases"]}))
    return f"{result['model']}, {context}: {result['steps']} steps of 8 of {records} (trained at commit {commits})"


def budget_table(result: dict[str, Any]) -> str:
    """Returns losses and scores of every case."""
    rows = []
    for case in result["cases"]:
        name = "LoRA, rank 8" if case["method"] == "lora" else f"prefix {case['length']}"
        whose = {"shared": "of the input", "own": "of its own"}[case["places"]] if case["length"] else "none"
        shares = case["attention_to_prefix"]
        rows.append([
            name, whose, case["source_room"], f"{case['validation_loss']:.4f}", f"{case['scores']['BLEU']:.2f}",
            *(f"{100 * shares[site]:.1f}" if site in shares else "" for site in ("encoder", "decoder", "cross")),
        ])  # fmt: skip
    sites = [f"% of attention, {site}" for site in ("encoder", "decoder", "cross")]
    return markdown_table(rows, ["method", "its places", "tokens left for the input", "loss", "BLEU", *sites])


def budget_chart(result: dict[str, Any]) -> Markup:
    """Returns a plot of the loss against prefix length, with LoRA's as a line across."""
    lora = next(case["validation_loss"] for case in result["cases"] if case["method"] == "lora")

    def line(places: str) -> tuple[Sequence[float], Sequence[float]]:
        cases = [case for case in result["cases"] if case["places"] == places and case["method"] == "prefix"]
        return [case["length"] for case in cases], [case["validation_loss"] for case in cases]

    x = line("own")[0]
    lines = [
        Series("places of the input", *line("shared")),
        Series("places of its own", *line("own"), kind="points"),
        Series("LoRA", [x[0], x[-1]], [lora, lora], "faint"),
    ]
    return line_chart(
        lines, title="Loss against prefix length in a full context", x_label="prefix length", y_label="nats a token",
        width=640, height=280, log=False, at_points=True,
    )  # fmt: skip
