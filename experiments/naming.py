"""Names of methods in tables, and the corresponding rows of the paper's tables."""

from collections.abc import Callable, Mapping
from typing import Any

from experiments import published
from experiments.results import Result
from prefix_jax.tuning import Declaration, known

_COLUMNS = {"e2e": "E2E", "webnlg": "WebNLG", "dart": "DART"}


def kind(result: Result) -> str:
    """Returns the method without its size, for tables over several studies; small adapters stand apart."""
    return _joined(result, lambda found: found.kind(_section(result, found), result.share))


def method(result: Result) -> str:
    """Returns the method with its size, such as "prefix 5", "adapters, 3.01 %" or "prefix 5 + LoRA, rank 8"."""
    return _joined(result, lambda found: found.label(_section(result, found), result.share))


def _joined(result: Result, text: Callable[[Declaration], str]) -> str:
    """A method that this version does not have keeps its name."""
    return " + ".join(name if m is None else text(m) for name, m in known(result.option("method")).items())


def _section(result: Result, method: Declaration) -> dict[str, Any]:
    return {option: result.option(f"{method.name}.{option}") for option in method.section()}


def _small(adapter: Result) -> bool:
    """Returns whether adapters are closer to 0.1 % of the model than to 3 %, the paper's two sizes."""
    return adapter.share <= 0.01


def labels(result: Result) -> dict[str, str]:
    """Returns the single label of tables that compare methods."""
    return {"method": method(result)}


def in_main_table(result: Result) -> str:
    """Returns the method's row in the paper's main table; "" if it has none."""
    name, large = result.option("method"), result.option("model.source") == "gpt2-large"
    if name == "prefix" and result.option("prefix.reparameterisation") == "mlp":
        return "PREFIX" if large else "PREFIX(0.1%)"
    if name == "adapter":
        return "ADAPTER(0.1%)" if _small(result) else "ADAPTER(3%)"
    if name == "finetune":
        return {0: "FINE-TUNE", 2: "FT-TOP2"}.get(result.option("finetune.layers"), "")
    return ""


def main_table(result: Result) -> Mapping[str, float]:
    """Returns the method's row in the paper's main table (arXiv v1, Table 1): GPT-2 Medium's, or Large's."""
    task = result.option("data.task")
    model = "GPT2-LARGE" if result.option("model.source") == "gpt2-large" else "GPT2-MEDIUM"
    place = ("main_table_arxiv_v1_Table1", model, in_main_table(result), _COLUMNS.get(task, ""))
    return published.scores(published.METRICS[task], *place)


def ablation(result: Result) -> Mapping[str, float]:
    """Returns the method's row in the paper's ablation (Table 4), which has one row per kind of embedding training."""
    name = result.option("method")
    short = {"infix": "INFIX", "prompt": "EMB"}.get(name)
    whole = "PREFIX arXiv v1" if name == "prefix" else ""
    row = f"{short}-{result.option(f'{name}.length')}" if short else whole
    return published.scores(published.E2E, "ablation_E2E_BLEU_NIST_MET_RL_CIDEr", row)
