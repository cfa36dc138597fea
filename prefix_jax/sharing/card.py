"""The card of a repository: what the hub reads in its front matter, and a page for people."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prefix_jax import hub, tasks
from prefix_jax.config import default_config
from prefix_jax.data.data_set import IN_MEMORY
from prefix_jax.errors import one_line
from prefix_jax.metrics.metric import kind_of
from prefix_jax.options import flat
from prefix_jax.tuning.methods import METHODS

# Options of a run that say nothing of its result.
_OF_THE_PLACE = ("mesh.", "model.source", "data.task", "data.path", "training.wandb", "training.tensorboard", "method")
_TAGS = {"prefix": "prefix-tuning", "prompt": "prompt-tuning", "infix": "infix-tuning"}


@dataclass(frozen=True)
class Card:
    """What a card says.

    Attributes:
      name: OWNER/NAME of the repository, or its folder's name.
      base: the base model's name on the hub; empty: it has none.
      source: how prefix_jax names the base model.
      config: the run's options, by section.
      numbers: how many numbers were tuned.
      step: after how many steps.
      scores: the entries of `scores.json`, by split.
      data_name: the name of the data's file, if they are not those of the task.
      in_peft: why PEFT's files are not beside ours; empty: they are.
      is_rounded: whether the weights it was tuned on are a rounded copy of the base model's.
      is_encoder_decoder: whether the base model is one.
      license: empty: not known.
      versions: of the packages of the run.
    """

    name: str
    base: str
    source: str
    config: Mapping[str, Any]
    numbers: int
    step: int = 0
    scores: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    data_name: str = ""
    in_peft: str = ""
    is_rounded: bool = False
    is_encoder_decoder: bool = False
    license: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def method(self) -> str:
        return str(self.config.get("method", "prefix"))

    @property
    def task(self) -> tasks.Task:
        return tasks.find(str(self.config["data"]["task"]))

    @property
    def tag(self) -> str:
        """The hub's word for what the model does."""
        return "text-classification" if self.task.labels is not None else self.task.pipeline_tag

    @property
    def title(self) -> str:
        return self.name.split("/")[-1]

    def text(self) -> str:
        """Returns the card, in Markdown after the front matter."""
        parts = [f"# {_plain(self.title)}", _intro(self), _scores(self), _use(self), _training(self)]
        body = "\n\n".join(part for part in parts if part)
        return f"{self.front_matter()}\n{body}\n"

    def front_matter(self) -> str:
        """Returns the front matter, which the hub reads."""
        tags = ["prefix_jax", "jax", *(_TAGS.get(name, name) for name in self.method.split("+"))]
        found: dict[str, Any] = {
            "base_model": self.base or None,
            "datasets": [self._hub_set()] if self._hub_set() else None,
            "library_name": "prefix_jax" if self.in_peft else "peft",
            "license": self.license or None,
            "pipeline_tag": self.tag,
            "tags": tags,
        }
        results = list(_results(self))
        if results:
            found |= {"model_name": self.title, "metrics": sorted({str(one["metric_type"]) for one in results})}
        return hub.front_matter(found, results)

    def _hub_set(self) -> str:
        """Returns the id of the data set on the hub; empty where other data were used, or a set that is not there."""
        known = self.task.data.hub
        return "" if self.data_name or known is None else known.id


def _data(card: Card) -> str:
    """Returns the name of the data."""
    return card._hub_set() or card.data_name or card.task.name


def _results(card: Card) -> Sequence[Mapping[str, Any]]:
    """Yields a score for each metric and split, as the fields of the hub's results."""
    found = []
    for split, entry in card.scores.items():
        for name, value in _numbers(entry.get("tuned")).items():
            about = {"dataset_type": _data(card).lower(), "dataset_name": card.task.name, "dataset_split": split}
            metric = {"metric_type": (kind_of(name, card.task.decimals) or name).lower(), "metric_name": name}
            found.append({"task_type": card.tag, **about, **metric, "metric_value": round(value, 4)})
    return found


def _line(text: object) -> str:
    """Returns a text as one line that ends no block of code."""
    return one_line(text).replace("`", "'")


def _plain(text: object) -> str:
    """Returns a text as one line outside of code, without markup of HTML."""
    return _line(text).replace("<", "&lt;")


def _cell(text: object) -> str:
    return _plain(text).replace("|", "\\|")


def _score(card: Card, entry: Mapping[str, Any], name: str, value: float | None) -> str:
    """Returns a score with the decimals of its task, or of a metric of one's own."""
    if value is None:
        return "-"
    own = (entry.get("metrics") or {}).get(name) or {}
    known = card.task.decimals
    return f"{value:.{own.get('decimals', known.get(kind_of(name, known), 2))}f}"


def _numbers(scores: Any) -> dict[str, float]:
    known = scores if isinstance(scores, Mapping) else {}
    return {name: float(value) for name, value in known.items() if isinstance(value, int | float)}


def _intro(card: Card) -> str:
    titles = " and ".join(METHODS[name].title for name in card.method.split("+"))
    base = f"[{card.base}](https://huggingface.co/{card.base})" if card.base else f"`{_line(card.source)}`"
    said = f"{titles} of {base} for the task `{card.task.name}`, with {card.numbers:,} numbers beside the frozen model"
    lines = [f"{said}. Made with prefix_jax: `tuned/` holds the numbers in its format."]
    if card.is_rounded:
        lines.append(
            f"It was tuned on `{_line(card.source)}`, a copy of the base model with rounded weights; on the base model "
            "itself its outputs may differ."
        )
    if not card.base:
        lines.append("The base model is not on the hub: give its directory as `model.source`.")
    return "\n".join(lines)


def _scores(card: Card) -> str:
    """Returns a table for each split with scores."""
    parts = []
    for split, entry in card.scores.items():
        tuned, bare = _numbers(entry.get("tuned")), _numbers(entry.get("bare"))
        if not tuned:
            continue
        head = ["metric", "tuned", *(["bare model"] if bare else [])]
        rows = [head, ["---"] * len(head)]
        for name, value in tuned.items():
            values = [value, bare.get(name)] if bare else [value]
            rows.append([_cell(name), *(_score(card, entry, name, one) for one in values)])
        count = entry.get("records")
        title = f"## Scores of {_plain(split)}" + (f" ({count:,} records)" if isinstance(count, int) else "")
        parts.append("\n".join([title, "", *(f"| {' | '.join(row)} |" for row in rows)]))
    return "\n\n".join(parts)


def _use(card: Card) -> str:
    where = "" if card.base or not card.source else ', options={"model.source": "DIR"}'
    name, base = _line(card.name), _line(card.base or card.source)
    lines = [
        "## Use", "", "```python", "import prefix_jax as pj", "", f"tuned = pj.load({json.dumps(name)}{where})",
        'tuned.generate("...")', "```", "", "```", f'prefix-jax generate --tuned {shlex.quote(name)} --input "..."',
        "```", "",
    ]  # fmt: skip
    if card.in_peft:
        return "\n".join([*lines, f"Without files for PEFT: {_plain(card.in_peft.partition(';')[0])}."])
    kind = "AutoModelForSeq2SeqLM" if card.is_encoder_decoder else "AutoModelForCausalLM"
    return "\n".join(
        [
            *lines, "With PEFT, on PyTorch:", "", "```python", "from peft import PeftModel",
            f"from transformers import {kind}", "",
            f"base = {kind}.from_pretrained({json.dumps(base)})",
            f"model = PeftModel.from_pretrained(base, {json.dumps(name)})", "```",
        ]
    )  # fmt: skip


def _training(card: Card) -> str:
    lines = ["## Training", "", f"{card.step:,} steps. The same options again:", "", "```", _line(command(card)), "```"]
    if card.data_name == IN_MEMORY:
        lines += ["", "FILE stands for the records, which a program in Python held."]
    if card.versions:
        lines += ["", ", ".join(f"{_plain(name)} {_plain(version)}" for name, version in card.versions.items()) + "."]
    return "\n".join(lines)


def command(card: Card) -> str:
    """Returns the command that trains with the same options, of which it names those that differ from the defaults."""
    words = ["prefix-jax", "train", "--model", card.source or "DIR", "--task", card.task.name]
    if card.data_name:
        words += ["--data", "FILE" if card.data_name == IN_MEMORY else card.data_name]
    words += ["--method", card.method, "--workdir", f"runs/{card.title}"]
    sections = {*card.method.split("+"), "data", "task", "model", "optimizer", "training", "decoding", "evaluation"}
    chosen, default = flat(card.config), flat(default_config(card.method).to_dict())
    for name, value in sorted(chosen.items()):
        of_run = name.partition(".")[0] in sections and not name.startswith(_OF_THE_PLACE)
        if of_run and name in default and default[name] != value:
            words.append(f"--config.{name}={tuple(value) if isinstance(value, list) else value}")
    return shlex.join(words)
