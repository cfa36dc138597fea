"""`python -m experiments.collect RUN_DIRECTORY ... --out experiments/e2e`: stores the sources of runs' results, and a
table.

Copies each run's configuration, metrics, scores and first samples to `OUT/<name of the run directory>/`, then writes
the table of all runs in OUT into `OUT/README.md`, between its two markers. The table is fully generated.
"""

import argparse
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from prefix_jax import workdir
from prefix_jax.reporting.tables import markdown_table, write_between_markers
from prefix_jax.tuning import known


def keep(run: Path, out: Path, samples: int = 20) -> None:
    """Copies the files behind a run's scores."""
    folder = out / run.name
    folder.mkdir(parents=True, exist_ok=True)
    for name in (workdir.CONFIG, workdir.METRICS, workdir.SCORES):
        shutil.copyfile(run / name, folder / name)
    workdir.write_samples(folder, workdir.read_samples(run)[:samples])


class Kept(NamedTuple):
    """A run's `config.json`, scores of a split, and last line of metrics."""

    record: dict[str, Any]
    entry: dict[str, Any]
    last: dict[str, Any]


def kept(out: Path, split: str = "test") -> list[Kept]:
    """Returns the runs in `out`, sorted by name."""
    found = []
    for folder in sorted(path.parent for path in out.glob(f"*/{workdir.SCORES}")):
        last = workdir.read_metrics(folder)[-1]
        found.append(Kept(workdir.read_config(folder), workdir.read_scores(folder)[split], last))
    return found


def table(out: Path, split: str = "test") -> str:
    """Returns the scores of every run in `out` as Markdown: the bare model's row, then the tuned one's."""
    rows, names = [], []
    for record, entry, last in kept(out, split):
        names = names or list(entry["tuned"])
        config, decoding = record["config"], entry["decoding"]
        how = f"beam {decoding['beams']}" if decoding["strategy"] == "beam" else decoding["strategy"]
        about = [f"{last['seconds'] / 60:.0f} min", f"{config['training']['seed']}/{config['data']['seed']}"]
        commit = f"`{(record['commit'] or '?')[:8]}`"
        if "bare" in entry:
            rows.append(
                [config["model"]["source"], "bare", how, "", "", *(_number(entry["bare"][n]) for n in names), ""]
            )
        stored, share = record["parameters"]["stored"], record["parameters"]["stored"] / record["parameters"]["base"]
        labels = (name if m is None else m.label(config[m.name], share) for name, m in known(config["method"]).items())
        what = f"{' + '.join(labels)}, {stored:,} numbers"
        rows.append(
            [config["model"]["source"], what, how, *about, *(_number(entry["tuned"][n]) for n in names), commit]
        )
    return markdown_table(rows, ["model", "tuned", "decoding", "training", "seeds", *names, "commit"])


def _number(value: float) -> str:
    return f"{value:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    for run in arguments.runs:
        keep(run, arguments.out)
    write_between_markers(arguments.out / "README.md", table(arguments.out))


if __name__ == "__main__":
    main()
