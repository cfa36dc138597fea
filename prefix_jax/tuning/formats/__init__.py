"""What was tuned in the file formats of other tools, one module each; `detect` tells which one a folder holds.

A format's `read(folder, spec)` returns the prefix and the base model's identity; its
`encode(prefix, spec, identity, name)` the contents of its files, by name. Keys are as attention sees them in both.
Of `COLLECTIONS`, a module's `read(folder, spec)` returns a collection; its `encode(collection, spec, identity)` files.
"""

from pathlib import Path
from types import ModuleType

from prefix_jax.errors import UserError
from prefix_jax.models.adapter_layers import LORA, PROMPT
from prefix_jax.tuning.formats import adapters, original, peft, peft_lora, peft_prompt

FORMATS: dict[str, ModuleType] = {"peft": peft, "adapters": adapters, "original": original}
# What PEFT has a form for beside prefixes: the collection, PEFT's types of it and the module that reads and writes it.
COLLECTIONS: dict[str, tuple[tuple[str, ...], ModuleType]] = {
    LORA: (("LORA",), peft_lora),
    PROMPT: (("PROMPT_TUNING", "P_TUNING"), peft_prompt),
}


def detect(folder: str | Path) -> str:
    """Returns the name of the foreign format in which `folder` holds a prefix.

    Raises:
      UserError: the folder is absent or holds none of them.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist; name the folder that holds a prefix")
    for name, module in FORMATS.items():
        if module.is_mine(folder):
            return name
    raise UserError(
        f"{folder} holds no prefix: neither a tuned run (tuned/prefix.json), nor PEFT's or adapters' "
        "adapter_config.json, nor weights of the original code (control_trans) or of P-tuning-v2 (prefix_encoder)"
    )


__all__ = ["COLLECTIONS", "FORMATS", "detect", "peft"]
