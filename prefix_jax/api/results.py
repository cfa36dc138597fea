"""Results as objects for terminals and notebooks: tables, scores, plots, attention."""

import importlib.util
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefix_jax import disk
from prefix_jax.errors import UserError, did_you_mean
from prefix_jax.inspection import Attention
from prefix_jax.reporting import export
from prefix_jax.reporting.figures import Figure, attention, lines
from prefix_jax.reporting.svg.markup import Markup, tag
from prefix_jax.reporting.svg.plots import Series
from prefix_jax.reporting.svg.standalone import standalone
from prefix_jax.reporting.tables import text_table

_ROWS_SHOWN = 10


class Plot:
    """A plot as SVG, which notebooks show.

    >>> plot = tuned.plot()
    >>> plot
    Plot('loss')
    >>> path = plot.save(tmp / "loss.svg")
    >>> plot.save(tmp / "loss.csv").read_text().split()[0]
    'series,step,loss'
    """

    def __init__(self, title: str, figure: Figure):
        if figure.chart is None or "<svg" not in figure.chart:
            raise UserError(f"there is nothing to draw of {title} yet")
        self.title, self.svg, self._figure = title, standalone(figure.chart), figure

    def save(self, path: str | os.PathLike) -> Path:
        """Writes a file by its ending, and returns its path: `.svg`, `.csv` (the numbers), `.pdf` for a paper, by
        matplotlib.

        Raises:
          UserError: the file has an unknown ending, or matplotlib is not installed.
        """
        path = Path(path)
        if path.suffix == ".pdf":
            export.write_pdf(self._figure, path, self.title)
        elif path.suffix in (".svg", ".csv"):
            disk.write_text(path, self.svg if path.suffix == ".svg" else self._figure.csv())
        else:
            raise UserError(f"{path.name} ends in neither .svg, .csv nor .pdf; name a file that does")
        return path

    def __repr__(self) -> str:
        return f"Plot({self.title!r})"

    def _repr_svg_(self) -> str:
        return self.svg


class History(list[dict[str, float]]):
    """The lines of a run's metrics, one dictionary per step; with pandas installed, `Tuned.history` is a DataFrame.

    >>> History([{"step": 1, "loss": 2.5}, {"step": 2, "loss": 2.0, "validation_loss": 2.25}])
    step  loss  validation_loss
    ────  ────  ───────────────
       1  2.50                -
       2  2.00             2.25
    """

    @classmethod
    def of(cls, lines: Sequence[Mapping[str, float]]) -> "History":
        """Returns the lines with those of the same step joined."""
        steps: dict[int, dict[str, float]] = {}
        for line in lines:
            steps.setdefault(int(line["step"]), {}).update({**line, "step": int(line["step"])})
        return cls(steps.values())

    @property
    def columns(self) -> list[str]:
        return list(dict.fromkeys(name for line in self for name in line))

    def curve(self, name: str) -> tuple[list[float], list[float]]:
        """Returns the steps that have a value, and the values."""
        points = [(line["step"], line[name]) for line in self if name in line]
        return [step for step, _ in points], [value for _, value in points]

    def frame(self) -> Any:
        """Returns a pandas DataFrame, or this table where pandas is not installed."""
        if importlib.util.find_spec("pandas") is None:
            return self
        import pandas

        return pandas.DataFrame(list(self), columns=self.columns)

    def plot(self, name: str = "loss") -> Plot:
        """Returns a plot of a column against the step; the loss beside the validation losses.

        Raises:
          UserError: there is no such column.
        """
        if name not in self.columns:
            raise UserError(f'the history has no "{name}"{did_you_mean(name, self.columns)}')
        series = [Series(name.replace("_", " "), *self.curve(name))]
        if name == "loss":
            others = {"validation_loss": "validation", "bare_validation_loss": "bare model, validation"}
            series += [
                Series(label, *self.curve(column), kind="points" if column == "validation_loss" else "faint")
                for column, label in others.items()
                if column in self.columns
            ]
        title = name.replace("_", " ")
        return Plot(name, lines(name, title.capitalize(), series, width=520, height=280, y_label=title))

    def text(self) -> str:
        """Returns the lines as those of a run's metrics."""
        return "".join(json.dumps(line) + "\n" for line in self)

    def __repr__(self) -> str:
        shown = list(self) if len(self) <= 2 * _ROWS_SHOWN else [*self[:_ROWS_SHOWN], *self[-_ROWS_SHOWN:]]
        return text_table([[line.get(name) for name in self.columns] for line in shown], self.columns)


class Scores(dict[str, float]):
    """Scores by metric, with the texts that were scored.

    Attributes:
      texts: the model's text for each input.
      sources: the inputs.
      references: the texts of each input.
      not_measured: for each score that the references give no meaning, the reason.

    >>> scores = tuned.evaluate(test_pairs, strategy="greedy", max_length=8)
    >>> sorted(scores), len(scores.texts) == len(test_pairs)
    (['BLEU', 'chrF', 'exact_match', 'rougeL'], True)
    """

    def __init__(
        self,
        scores: Mapping[str, float],
        texts: Sequence[str] = (),
        sources: Sequence[str] = (),
        references: Sequence[Sequence[str]] = (),
        not_measured: Mapping[str, str] | None = None,
    ):
        super().__init__(scores)
        self.texts, self.sources, self.references = list(texts), list(sources), [list(texts) for texts in references]
        self.not_measured = dict(not_measured or {})

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value:.2f}" for name, value in self.items())
        return f"Scores({shown}; {len(self.texts)} texts)"

    def _repr_html_(self) -> str:
        rows = [(name, f"{value:.2f}") for name, value in self.items()]
        return facts_table(rows, f"{len(self.texts)} texts")


class AttentionMaps(dict[str, Attention]):
    """Attention weights of a text by site; notebooks show each site's head that gives the prefix the most.

    >>> maps = tuned.attention(pairs[0][0])
    >>> maps["decoder"].slots
    3
    >>> maps.plot("decoder", layer=1, head=0)
    Plot('decoder, layer 1, head 0')
    """

    def plot(self, site: str, layer: int | None = None, head: int | None = None) -> Plot:
        """Returns a plot of one head's weights; without a layer and a head, of the one that looks at the prefix most.

        Raises:
          UserError: there is no such site, layer or head.
        """
        if site not in self:
            raise UserError(f'there is no site "{site}"{did_you_mean(site, tuple(self))}')
        found = self[site]
        share = found.prefix_share()
        if layer is None or head is None:
            layer, head = map(int, divmod(int(share.argmax()), share.shape[1]))
        if not (0 <= layer < share.shape[0] and 0 <= head < share.shape[1]):
            raise UserError(f"{site} has {share.shape[0]} layers of {share.shape[1]} heads, and no {layer}, {head}")
        title = f"{site}, layer {layer}, head {head}"
        weights = found.weights[layer, head].tolist()
        return Plot(title, attention(f"attention_{site}", title, weights, found.slots, found.queries, found.keys))

    def __repr__(self) -> str:
        sites = ", ".join(f"{site} {list(found.weights.shape)}" for site, found in self.items())
        return f"AttentionMaps({sites})"

    def _repr_html_(self) -> str:
        plots = [self.plot(site) for site in self]
        return "".join(f"{tag('p', plot.title)}{plot.svg}" for plot in plots)


def facts_table(rows: Sequence[tuple[str, object]], title: str) -> Markup:
    """Returns an HTML table of names and values."""
    cells = [
        tag("tr", tag("th", name, scope="row", style="text-align: left"), tag("td", value)) for name, value in rows
    ]
    return tag("table", tag("caption", title), tag("tbody", cells))
