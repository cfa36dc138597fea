"""What a user of torch would pick instead: transformers' model with PEFT's prefix, trained as PEFT's guide does."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from peft import PrefixTuningConfig, get_peft_model
from torch.nn.utils.rnn import pad_sequence

from benchmarks.files import Row

IGNORED = -100


class Peft:
    """A frozen model with PEFT's prefix through its MLP, and AdamW on what is trained."""

    def __init__(self, base: Any, length: int = 10, hidden: int = 512, device: str = "cpu"):
        torch.manual_seed(0)
        self.encoder_decoder = base.config.is_encoder_decoder
        self.pad = base.config.pad_token_id or 0
        task = "SEQ_2_SEQ_LM" if self.encoder_decoder else "CAUSAL_LM"
        options = PrefixTuningConfig(
            task_type=task, num_virtual_tokens=length, prefix_projection=True, encoder_hidden_size=hidden
        )
        if self.encoder_decoder:  # PEFT takes the model's width, which is not what this T5's heads have together
            options.token_dim = base.config.num_heads * base.config.d_kv
        self.model = get_peft_model(base, options).to(device)
        self.device = device
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.0)

    def batch(self, rows: list[Row]) -> dict[str, Any]:
        """Returns the rows padded to the longest, as transformers' collators do."""
        if self.encoder_decoder:
            inputs, labels = [r.source for r in rows], [r.target for r in rows]
        else:
            inputs = [r.source + r.target for r in rows]
            labels = [[IGNORED] * len(r.source) + r.target for r in rows]
        ids = self._padded(inputs, self.pad)
        mask = self._padded([[1] * len(row) for row in inputs], 0)
        return {"input_ids": ids, "attention_mask": mask, "labels": self._padded(labels, IGNORED)}

    def _padded(self, rows: list[list[int]], value: int, left: bool = False) -> torch.Tensor:
        tensors = [torch.tensor(row) for row in rows]
        side = "left" if left else "right"
        return pad_sequence(tensors, batch_first=True, padding_value=value, padding_side=side).to(self.device)

    def loss(self, rows: list[Row]) -> torch.Tensor:
        """Returns the mean loss of a target token."""
        return self.model(**self.batch(rows)).loss

    def step(self, rows: list[Row]) -> float:
        """Takes one training step; returns the loss."""
        return self.update(self.loss(rows))

    def update(self, loss: torch.Tensor) -> float:
        """Moves what is trained down the gradient of a loss; returns the loss."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in self.model.parameters() if p.requires_grad], 1.0)
        self.optimizer.step()
        return float(loss.detach())

    @torch.no_grad()
    def generate(self, sources: list[list[int]], beams: int, new_tokens: int) -> list[list[int]]:
        """Returns the new tokens of a batch of inputs, padding aside."""
        self.model.eval()
        left = not self.encoder_decoder
        ids = self._padded(sources, self.pad, left)
        mask = self._padded([[1] * len(row) for row in sources], 0, left)
        out = self.model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=new_tokens,
            min_new_tokens=new_tokens - 1, num_beams=beams, do_sample=False,
            pad_token_id=self.pad,
        )  # fmt: skip
        start = 1 if self.encoder_decoder else ids.shape[1]
        return [[t for t in row[start:].tolist() if t != self.pad] for row in out]

    @property
    def encoder(self) -> Any:
        """The module that makes the prefix."""
        return self.model.prompt_encoder["default"]


def opened(folder: Path, dtype: str, **options: Any) -> Peft:
    """Returns the model of a folder with its prefix; `options` are those of `Peft`."""
    config = transformers.AutoConfig.from_pretrained(folder)
    kind = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
    return Peft(kind.from_pretrained(folder, dtype=getattr(torch, dtype)), **options)


def load_mlp(peft: Peft, leaves: dict[str, Any]) -> None:
    """Gives PEFT's MLP the numbers of ours (a site's tree, see `prefix_jax.tuning.prefix`)."""
    pairs = dict(zip(_parameters(peft), arrays(leaves), strict=True))
    with torch.no_grad():
        for parameter, array in pairs.items():
            parameter.copy_(torch.from_numpy(np.array(array)))


def mlp_gradients(peft: Peft) -> list[np.ndarray]:
    """Returns the gradients of PEFT's MLP in the order and the shapes of `arrays`."""
    return [p.grad.float().cpu().numpy() for p in _parameters(peft)]


def _parameters(peft: Peft) -> list[Any]:
    first, _, last = peft.encoder.transform
    return [peft.encoder.embedding.weight, first.weight, first.bias, last.weight, last.bias]


def arrays(leaves: dict[str, Any]) -> list[np.ndarray]:
    """Returns a site's tree in PEFT's shapes: its columns are in the order layer, key or value, head, dimension."""
    kernel = np.asarray(leaves["out"]["kernel"])
    return [
        np.asarray(leaves["embedding"]),
        np.asarray(leaves["hidden"]["kernel"]).T,
        np.asarray(leaves["hidden"]["bias"]),
        kernel.reshape(len(kernel), -1).T,
        np.asarray(leaves["out"]["bias"]).reshape(-1),
    ]
