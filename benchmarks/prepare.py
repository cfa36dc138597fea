"""Writes what both sides start from: the weights as a Hugging Face directory, and the rows."""

from pathlib import Path

import numpy as np
import torch
import transformers

from benchmarks import rows
from prefix_jax.models.pretrained import open_checkpoint


def prepare(source: str, folder: Path, training: int = 2048, test: int = 64) -> None:
    """Fills `folder` with the weights that prefix_jax loads, `config.json` and `rows.json`."""
    if (folder / "rows.json").exists():
        return
    checkpoint = open_checkpoint(source)
    config = transformers.AutoConfig.for_model(**checkpoint.config)
    state = {name: torch.from_numpy(np.array(leaf.all())) for name, leaf in checkpoint.table.items()}
    kind = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
    # The class itself: the automatic one does not take a state.
    model = kind._model_mapping[type(config)].from_pretrained(None, config=config, state_dict=state)
    model.save_pretrained(folder)
    rows.write(source, folder / "rows.json", training, test)
