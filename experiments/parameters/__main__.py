"""`python -m experiments.parameters`: how many numbers each method trains and stores, on models of every family.

Counted from shapes alone, by the methods' own code; nothing is loaded. Writes the table of `README.md` between its
markers, and two plots: `by_method.svg` and `by_length.svg`.
"""

from pathlib import Path
from typing import Any

import jax

from prefix_jax import tuning
from prefix_jax.config import default_config
from prefix_jax.disk import write_text
from prefix_jax.models import build
from prefix_jax.planning.abstract import base_shapes
from prefix_jax.planning.shapes import spec_of
from prefix_jax.reporting.dots import Dots, dot_rows
from prefix_jax.reporting.markup import Markup
from prefix_jax.reporting.plots import Series, line_chart
from prefix_jax.reporting.standalone import standalone
from prefix_jax.reporting.tables import markdown_table, write_between_markers
from prefix_jax.tuning.method import count, trained_count

FOLDER = Path(__file__).parent
MODELS = ("gpt2", "gpt2-medium", "flan-t5-small", "bart-large", "llama-2-7b")
# Name in the table, method, options.
METHODS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("prefix 10, direct", "prefix", {"prefix.length": 10, "prefix.reparameterisation": "none"}),
    ("prefix 10 through an MLP of 512", "prefix", {"prefix.length": 10}),
    ("prefix 20 through an MLP of 512", "prefix", {"prefix.length": 20}),
    ("infix 10, direct", "infix", {"infix.length": 10, "infix.reparameterisation": "none"}),
    ("prompt 20", "prompt", {"prompt.length": 20}),
    ("prompt 20 through an MLP of 512", "prompt", {"prompt.reparameterisation": "mlp"}),
    ("prompt 20 through an LSTM of 512", "prompt", {"prompt.reparameterisation": "lstm"}),
    ("LoRA, rank 8, query and value", "lora", {}),
    ("LoRA, rank 8, every matrix", "lora", {"lora.targets": "all"}),
    ("adapters of 64", "adapter", {}),
    ("fine-tuning, last 2 layers", "finetune", {"finetune.layers": 2}),
    ("fine-tuning", "finetune", {}),
)
# What is drawn: a model, and lengths of its virtual tokens.
DRAWN = "gpt2-medium"
LENGTHS = (1, 2, 5, 10, 20, 50, 100, 200, 500)


def counts(model: str, method: str, options: dict[str, Any]) -> tuple[int, int, int]:
    """Returns the numbers that are trained, that are stored, and of the model itself."""
    spec = spec_of(model)
    config = default_config()
    config.method = method
    config.update_from_flattened_dict(options)
    made = tuning.build(config, build(spec))
    base = {"params": base_shapes(spec, "float32")}
    trainable = jax.eval_shape(made.init, jax.random.key(0), base)
    kept = jax.eval_shape(lambda t, b: made.keep(t, b, None), trainable, base)
    return trained_count(made, trainable), kept.count(), count(base)


def rows() -> list[list[object]]:
    found: list[list[object]] = []
    for model in MODELS:
        for title, method, options in METHODS:
            if method == "infix" and spec_of(model).encoder_layers:
                continue
            trained, stored, base = counts(model, method, options)
            found.append([model, title, f"{trained:,}", f"{stored:,}", f"{100 * stored / base:.3g} %"])
    return found


def by_method(model: str = DRAWN) -> Markup:
    """Returns a plot of what each method stores and trains, with the stored share of the model."""
    drawn = []
    for title, method, options in METHODS:
        trained, stored, base = counts(model, method, options)
        drawn.append(Dots(title, stored, None if trained == stored else trained, f"{100 * stored / base:.3g} %"))
    return dot_rows(
        sorted(drawn, key=lambda row: row.full), title=f"Parameters by method, {model}", x_label="numbers",
        full="stored", ring="trained, where more", note=f"stored, of {model}",
    )  # fmt: skip


def by_length(model: str = DRAWN) -> Markup:
    """Returns a plot of what a prefix and a prompt train against their length."""
    direct, mlp, prompt = [], [], []
    for length in LENGTHS:
        prefix = {"prefix.length": length}
        direct.append(counts(model, "prefix", {**prefix, "prefix.reparameterisation": "none"})[0])
        mlp.append(counts(model, "prefix", prefix)[0])
        prompt.append(counts(model, "prompt", {"prompt.length": length})[0])
    lines = [
        Series("prefix, stored", LENGTHS, direct),
        Series("prefix, trained through an MLP", LENGTHS, mlp, "points"),
        Series("prompt", LENGTHS, prompt, "faint"),
    ]
    return line_chart(
        lines, title=f"Parameters by length, {model}", x_label="virtual tokens", y_label="numbers", width=700,
        height=300, log=True, at_points=True,
    )  # fmt: skip


def main() -> None:
    table = markdown_table(rows(), ["model", "method", "trained", "stored", "stored, of the model"])
    write_between_markers(FOLDER / "README.md", table)
    write_text(FOLDER / "by_method.svg", standalone(by_method()))
    write_text(FOLDER / "by_length.svg", standalone(by_length()))


if __name__ == "__main__":
    main()
