"""`sweep.json`: the rows of a sweep, their grouping into programs, and the state of each."""

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import prefix_jax.workdir as files
from prefix_jax.config import changed
from prefix_jax.errors import UserError
from prefix_jax.evaluation import scorers
from prefix_jax.models.pretrained import identity_of
from prefix_jax.parallel import distributed
from prefix_jax.sweeping.groups import groups, holding
from prefix_jax.sweeping.rows import Row, value_of
from prefix_jax.training import sameness


class SweepState:
    """State of a sweep, stored in its directory; every change is on disk when the call returns.

    A row is "waiting", "trained", "scored", "diverged" (non-finite loss) or "failed" (with `error`). Groups keep their
    members when rows are added, so that their checkpoints remain valid.
    """

    def __init__(
        self,
        workdir: Path,
        rows: Sequence[Row],
        members: int,
        scoring: dict[str, Any],
        about: dict[str, Any],
        only: str = "",
        job: str = "",
    ):
        """`scoring` gives the split and the records to score; `about` is stored in the file unchanged.

        `chosen` are the groups with a row whose name contains `only`; the state of other groups is preserved. With
        `job`, the state covers one group, in a separate file that no other process writes.

        Raises:
          UserError: the directory holds other runs, or no name contains `only`.
        """
        if files.is_run(workdir):
            raise UserError(f"{workdir} holds a run; name another --workdir for a sweep")
        self.workdir, self.rows = workdir, {row.name: row for row in rows}
        self.scoring, self.about = scoring, about
        self.folder_of_file = self.job_folder(job) if job else workdir
        self._ground = functools.cache(_ground)
        before = _with_jobs(workdir, files.read_sweep(workdir))
        kept = [[name for name in group if name in self.rows] for group in before.get("groups", [])]
        kept = [group for group, old in zip(kept, before.get("groups", []), strict=True) if group == old]
        placed = {name for group in kept for name in group}
        new = groups([row for row in rows if row.name not in placed], members)
        self.groups = [*kept, *([row.name for row in group] for group in new)]
        self.chosen = holding(self.groups, only)
        run = {name for group in self.chosen for name in group}
        self.found: dict[str, dict[str, Any]] = {
            row.name: self._earlier(row, before) if row.name in run else _known(row, before) for row in rows
        }
        self.write()

    def job_folder(self, name: str) -> Path:
        """Returns where the files of a group's job are."""
        return self.workdir / files.JOBS / name

    def gather(self, group: Sequence[str]) -> None:
        """Merges the state written by a group's job."""
        rows = _with_jobs(self.workdir, {"rows": [{"name": name, **self.found[name]} for name in group]})["rows"]
        for row in rows:
            self.found[row["name"]] = self._earlier(self.rows[row["name"]], {"rows": [row]})
        self.write()

    def undone(self, group: Sequence[str]) -> list[str]:
        """Returns the rows of a group that remain to be trained or scored."""
        ended = (
            ("scored", "diverged", "failed") if self.scoring["split"] else ("trained", "scored", "diverged", "failed")
        )
        return [name for name in group if self.status(name) not in ended]

    def directory(self, name: str) -> Path:
        """Returns a row's run directory."""
        return self.workdir / files.RUNS / name

    def folder(self, group: Sequence[str]) -> Path:
        """Returns where a group's checkpoints are: a row alone has them in its own directory."""
        return self.directory(group[0]) if len(group) == 1 else self.workdir / files.TOGETHER / group[0]

    def status(self, name: str) -> str:
        return self.found[name]["status"]

    def set(self, name: str, status: str, **more: Any) -> None:
        self.found[name] = {"status": status, **more}
        self.write()

    def write(self) -> None:
        varied = list(dict.fromkeys(option for row in self.rows.values() for option in row.overrides))
        rows = []
        for name, row in self.rows.items():
            options = {option: value_of(row.config, option) for option in varied}
            about = {
                "name": name,
                "options": options,
                "config": changed(row.config.to_dict()),
                "directory": f"{files.RUNS}/{name}",
            }
            rows.append({**about, **self.found[name]})
        record = {**self.about, **self.scoring, "groups": self.groups, "rows": rows}
        if distributed.is_primary():
            files.write_sweep(self.folder_of_file, record)

    def _earlier(self, row: Row, before: dict[str, Any]) -> dict[str, Any]:
        """Returns a row's earlier state; rows that failed or whose scoring options changed are redone."""
        kept, waiting = _known(row, before), {"status": "waiting"}
        if kept["status"] in ("waiting", "failed"):
            return waiting
        if not self._still(row, kept["status"]):
            return waiting
        if kept["status"] == "scored" and kept.get("asked") != self.asked(row):
            return {"status": "trained"}
        return kept

    def _still(self, row: Row, status: str) -> bool:
        """Returns whether a row's run has the requested length; a run with other options is refused."""
        folder = self.directory(row.name)
        if status != "diverged" and not (folder / files.TUNED).is_dir():
            return False
        record, wanted = files.read_config(folder), json.loads(row.config.to_json())
        sameness.refuse_other(folder, record, wanted, self._ground(row.config.model.source))
        ran = record["config"]
        return all(ran["training"][name] == wanted["training"][name] for name in ("steps", "epochs"))

    def asked(self, row: Row) -> dict[str, Any]:
        """Returns the options that affect a row's scores besides its tuned state."""
        how = {k: v for k, v in scorers.how(row.config).items() if v != scorers.DEFAULT[k]}
        return {**self.scoring, **how, "decoding": json.loads(row.config.decoding.to_json())}


def _ground(source: str) -> dict[str, Any] | None:
    """Returns the identity of a model's weights; None if it cannot be opened (a finished sweep does not need it)."""
    try:
        return {"model": identity_of(source)}
    except UserError:
        return None


def _known(row: Row, before: dict[str, Any]) -> dict[str, Any]:
    """Returns the part of a sweep's record about a row."""
    for old in before.get("rows", []):
        if old["name"] == row.name:
            return {k: v for k, v in old.items() if k not in ("name", "options", "config", "directory")}
    return {"status": "waiting"}


def _with_jobs(workdir: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Returns a sweep's record with what its jobs have come to since it was written."""
    found = [row for job in (workdir / files.JOBS).glob("*") for row in files.read_sweep(job).get("rows", [])]
    newer = {row["name"]: row for row in found if row["status"] != "waiting"}
    ended = ("scored", "diverged")
    rows = [row if row["status"] in ended else newer.get(row["name"], row) for row in record.get("rows", [])]
    return {**record, "rows": rows}
