"""Extrapolation in summaries: from news to sport, and from three sections of the news to the others (Table 3).

    python -m experiments.news.sections --rows DIRECTORY --urls urls.jsonl --out data/xsum_sections
    python -m experiments.news --scale=paper --workdir runs/news --config.data.path=data/xsum_sections

"paper": BART-large as published. "cpu": FLAN-T5-small, 100 steps of 8 articles cut to 256 tokens.

Not run: neither BART's weights nor XSUM's articles with their addresses can be had offline; tested on small weights
and a few rows.
"""

from collections.abc import Iterator
from typing import Any

from experiments import published, scales
from experiments.xsum.recipe import small_summaries
from prefix_jax.config import Config

# Which categories train, and which are the test's.
SPLITS = {
    "news-to-sports": {"data.categories": "-sport", "data.test_categories": "sport"},
    "within-news": {
        "data.categories": "world,uk,business",
        "data.test_categories": "-sport,world,uk,business",
    },
}
SMALL_RATES = {"prefix": 2e-3, "finetune": 5e-4}


def get_config(scale: str = "cpu") -> Config:
    return scales.bart(published.PREFIX_LENGTHS["within-news"]) if scales.check(scale) == "paper" else small_summaries()


def sweep(scale: str = "cpu") -> Iterator[dict[str, Any]]:
    paper = scales.check(scale) == "paper"
    for name, split in SPLITS.items():
        for method, rate in SMALL_RATES.items():
            options: dict[str, Any] = {**split, "method": method}
            if method == "prefix":
                options["prefix.length"] = published.PREFIX_LENGTHS[name] if paper else 10
            yield {**options, **(published.training(method, name) if paper else {"optimizer.learning_rate": rate})}
