"""`python -m experiments.scale`: what a step of prefix tuning costs, against chips and against the model's size.

Asks the planner (see `prefix_jax.plan`) case by case and keeps each answer in `results.jsonl`: what is there is not
asked again. Then writes the tables of `README.md`, between its markers, from that file alone.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from prefix_jax.disk import read_json_lines, write_text
from prefix_jax.reporting.tables import markdown_table, write_between_markers

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results.jsonl"
RECIPE = "configs/e2e_gpt2_medium.py"
COLUMNS = [
    "model", "chips", "mesh: data x fsdp x tensor", "rows x columns", "attention", "GiB a chip", "fits", "TFLOP a chip",
    "GiB moved", "GiB sent", "ms a step", "tokens/s", "tokens/s a chip", "bound by",
]  # fmt: skip


def cases(
    model: str, topology: str, fsdp: int, tensor: int, rows: int, columns: int = 512, remat: bool = False
) -> list[dict]:
    """Returns a case for each kind of attention."""
    shared = dict(
        model=model, topology=topology, fsdp=fsdp, tensor=tensor, rows=rows, columns=columns, rematerialise=remat
    )
    return [{**shared, "attention": attention} for attention in ("plain", "fused")]


CHIPS = [
    *cases("gpt2-xl", "v5e:1x1", 1, 1, 8),
    *cases("gpt2-xl", "v5e:2x2", 1, 1, 32),
    *cases("gpt2-xl", "v5e:4x4", 1, 1, 128),
    *cases("gpt2-xl", "v5e:8x8", 1, 1, 512),
    *cases("gpt2-xl", "v5e:16x16", 1, 1, 2048),
]
SIZES = [
    *cases("gpt2-medium", "v5e:4x4", 1, 1, 128),
    *cases("gpt2-xl", "v5e:4x4", 1, 1, 128),
    *cases("gpt-j-6b-size", "v5e:4x4", 16, 1, 64, remat=True),
    *cases("t5-11b", "v5e:4x4", 16, 1, 64, remat=True),
    *cases("llama-2-7b", "v5e:4x4", 16, 1, 64, remat=True),
    *cases("llama-2-70b", "v5e:2x2", 4, 1, 4, remat=True),
    *cases("llama-2-70b", "v5e:4x4", 16, 1, 16, remat=True),
    *cases("llama-2-70b", "v5e:16x16", 64, 4, 64, columns=2048, remat=True),
]


def ask(wanted: dict[str, Any]) -> dict[str, Any]:
    """Returns the planner's answer to a case."""
    words = [sys.executable, "-m", "prefix_jax.plan", "--config", RECIPE, "--json"]
    words += [f"--topology={wanted['topology']}", f"--batch={wanted['rows']}", f"--sequence_length={wanted['columns']}"]
    words += ["--targets=128", f"--config.model.source={wanted['model']}", "--config.model.dtype=bfloat16"]
    words += [f"--config.mesh.{name}={wanted[name]}" for name in ("fsdp", "tensor")]
    words += [f"--config.model.{name}={wanted[name]}" for name in ("rematerialise", "attention")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{wanted}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.rstrip().split("\n")[-1])


def known() -> list[dict[str, Any]]:
    return read_json_lines(RESULTS) if RESULTS.exists() else []


def row(wanted: dict[str, Any], found: dict[str, Any]) -> list[object]:
    mesh, gib = found["mesh"], 2**30
    fits = "yes" if found["fits"] else f"no, {found['shortfall'] / gib:.1f} GiB too much"
    work = f"{wanted['rows']} x {wanted['columns']}" + (", rematerialised" if wanted["rematerialise"] else "")
    cells: list[object] = [
        wanted["model"], found["chips"], f"{mesh['data']} x {mesh['fsdp']} x {mesh['tensor']}", work,
        wanted["attention"], f"{found['bytes_per_chip'] / gib:.2f}", fits,
    ]  # fmt: skip
    if found["step_seconds"] is None:
        return [*cells, *[None] * (len(COLUMNS) - len(cells))]
    per_chip = found["tokens_per_second"] / found["chips"]
    return [
        *cells, f"{found['flops_per_chip'] / 1e12:.2f}", f"{found['bytes_moved_per_chip'] / gib:.1f}",
        f"{found['bytes_sent_per_chip'] / gib:.2f}", f"{1e3 * found['step_seconds']:,.0f}",
        f"{found['tokens_per_second']:,.0f}", f"{per_chip:,.0f}", found["bound"],
    ]  # fmt: skip


def table(cases: list[dict[str, Any]], answers: list[dict[str, Any]]) -> str:
    found = [(c, next(a["answer"] for a in answers if a["case"] == c)) for c in cases]
    return markdown_table([row(c, a) for c, a in found], COLUMNS)


def main() -> None:
    answers = known()
    for wanted in [*CHIPS, *SIZES]:
        if all(answer["case"] != wanted for answer in answers):
            print(wanted, file=sys.stderr)
            answers.append({"case": wanted, "answer": ask(wanted)})
            write_text(RESULTS, "".join(json.dumps(answer) + "\n" for answer in answers))
    parts = ["Against chips:", table(CHIPS, answers), "Against the model's size:", table(SIZES, answers)]
    write_between_markers(FOLDER / "README.md", "\n\n".join(parts))


if __name__ == "__main__":
    main()
