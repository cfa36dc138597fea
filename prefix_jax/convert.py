"""Converts tuned states between file formats: `python -m prefix_jax.convert --from DIR --to peft --out DIR2`.

The format of DIR is detected from its files. Numbers are copied bit for bit, except that keys of models with rotary
positions are rotated to the target format's first token position, and LoRA's scale is folded into its matrices (exact
up to float32 rounding). Prefixes can be converted to several formats; LoRA and prompts to PEFT's.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from absl import flags

from prefix_jax import cli, disk
from prefix_jax.errors import UserError
from prefix_jax.models import from_hf
from prefix_jax.models.adapter_layers import LORA
from prefix_jax.models.model_config import ModelConfig
from prefix_jax.models.prefix import Prefix, check, length
from prefix_jax.models.pretrained.directory import read_json
from prefix_jax.tuning import store
from prefix_jax.tuning.formats import COLLECTIONS, FORMATS, detect, peft, peft_lora
from prefix_jax.tuning.tuned_state import TunedState

OURS = "prefix_jax"


def convert(source: str, target: str, out: str, name: str = "prefix", model: str = "", overwrite: bool = False) -> str:
    """Reads `source`, writes it to `out` in the format `target`, and returns a sentence about the result.

    Args:
      source: a run directory, its `tuned/` folder, or a folder of another format.
      target: "prefix_jax", "peft", "adapters" or "original".
      out: the folder to write, absent or empty.
      name: adapter name, for formats with names.
      model: base model, for files that do not describe it: a directory with a config.json, a wheel's name or a hub id.
      overwrite: whether files in `out` may be replaced.

    Raises:
      UserError: the input is damaged, the target cannot hold such a prefix, or `out` is not empty.
    """
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; name a folder with --out")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise UserError(f"{folder} is not empty; name another folder, or add --overwrite")
    named = model_config_of_source(model) if model else None
    if (name_of := _collection_of(Path(source))) is not None:
        contents, sentence = _converted(Path(source), name_of, target, named, model)
        disk.write_all(folder, contents)
        return f"wrote {', '.join(contents)} in {folder}: {sentence}"
    form = OURS if store.find(source) else detect(source)
    prefix, model_config, meta = _read(Path(source), form, named)
    if model:
        meta["model"] = {**meta["model"], "name": model}
    contents = _encode(target, prefix, model_config, meta, name)
    disk.write_all(folder, contents)
    window = model_config.narrowest_window if model_config is not None and "peft" in (form, target) else None
    alibi = model_config.alibi if model_config is not None and "peft" in (form, target) else None
    said = "; with ALiBi, its slots have the bias of their distance, as in PEFT" if alibi else ""
    rounded = ", whose biases are not rounded to bfloat16" if alibi and alibi.rounded else ""
    return _sentence(prefix, target, folder, contents, window) + said + rounded


def model_config_of_source(source: str) -> ModelConfig:
    """Returns a model's model config, from its `config.json` or through `models.pretrained`.

    Raises:
      UserError: the model does not exist or is not supported.
    """
    config = Path(source) / "config.json"
    if config.is_file():
        return from_hf(read_json(config), str(config))
    from prefix_jax.models.pretrained import open_checkpoint
    from prefix_jax.models.pretrained.aliases import alias_of

    return from_hf(open_checkpoint(alias_of(source)).config)


def _collection_of(source: Path) -> str | None:
    """Returns the collection in a folder; None if it holds a prefix, or nothing known.

    Raises:
      UserError: it holds several states, which no other format can combine, or one without another format.
    """
    if store.COLLECTIONS.find(source):
        kept, _ = store.load(source)
        held = [*(["prefix"] if kept.prefix is not None else []), *kept.collections]
        if len(held) > 1:
            raise UserError(
                f"{source} holds {' and '.join(held)}, which were tuned together and work only together, and other "
                "formats hold one thing a folder; keep it as prefix_jax, or tune them apart"
            )
        if held[0] not in COLLECTIONS:
            what = {"adapter": "bottleneck adapters", "tuned": "fine-tuned weights"}.get(held[0], held[0])
            raise UserError(f"{source} holds {what}, for which there is no other format here; keep it as prefix_jax")
        return held[0]
    if store.find(source) or not source.is_dir() or detect(source) != "peft":
        return None
    return next((name for name, (kinds, _) in COLLECTIONS.items() if peft.kind(source) in kinds), None)


def _converted(
    source: Path, collection: str, target: str, model_config: ModelConfig | None, model: str
) -> tuple[dict[str, bytes], str]:
    """Returns the files of a collection in another format, and a sentence about them."""
    if target not in (OURS, "peft"):
        raise UserError(f"{target} is for prefixes, and {source} holds {collection}; use --to peft")
    form = COLLECTIONS[collection][1]
    if store.COLLECTIONS.find(source):
        kept, meta = store.load(source)
        tree, model_config = kept.collections[collection], model_config or store.model_config_of(meta)
        if model_config is None:
            raise UserError(f"{source} does not say which model it is for; name it with --model")
        extra = {name: meta[name] for name in ("method", "step", "config") if name in meta}
        identity = {**meta["model"], **({"name": model} if model else {})}
    else:
        model = model or peft.base_of(source)
        model_config = model_config or _base_spec(source, model)
        tree, identity = (
            form.read(source, model_config),
            {"name": str(Path(model).resolve()) if Path(model).is_dir() else model},
        )
        extra = {"method": collection, "config": {"method": collection, collection: _section(collection, tree)}}
    said = f"{collection}, {sum(leaf.size for leaf in jax.tree.leaves(tree)):,} numbers"
    if target == OURS:
        return store.encode(TunedState(None, {collection: tree}), identity, model_config, extra), said
    return form.encode(jax.device_get(tree), model_config, identity), said


def _section(collection: str, tree: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options that describe a collection from another format."""
    if collection == LORA:
        rank = peft_lora.rank(tree)
        return {"rank": rank, "alpha": float(rank), "targets": ",".join(sorted(peft_lora.targets(tree)))}
    return {"length": len(tree["embeddings"]), "reparameterisation": "none"}


def _base_spec(source: Path, model: str) -> ModelConfig:
    """Returns the model config of an adapter's base model."""
    if not model:
        raise UserError(f"{source} does not say which model it is for; name it with --model")
    try:
        return model_config_of_source(model)
    except UserError as error:
        raise UserError(
            f'{source} is for the model "{model}", which cannot be opened ({error}); name it with --model'
        ) from None


def _read(
    source: Path, form: str, model_config: ModelConfig | None
) -> tuple[Prefix, ModelConfig | None, dict[str, Any]]:
    if form == OURS:
        kept, meta = store.load(source, model_config)
        assert kept.prefix is not None
        return kept.prefix, model_config or store.model_config_of(meta), meta
    prefix, identity = FORMATS[form].read(source, model_config)
    if model_config is not None:
        check(prefix, model_config)
    return prefix, model_config, {"model": identity}


def _encode(
    target: str, prefix: Prefix, model_config: ModelConfig | None, meta: dict[str, Any], name: str
) -> dict[str, bytes]:
    if target != OURS:
        if prefix.infix:
            raise UserError(
                "an infix stands between source and target, where other formats have no place for it; keep it as "
                "prefix_jax"
            )
        return FORMATS[target].encode(prefix, model_config, meta["model"], name)
    # Metadata of the source (its configuration, its version) is preserved.
    extra = {name: value for name, value in meta.items() if name not in ("model", "spec")}
    return store.encode(TunedState(prefix), meta["model"], model_config, extra)


def _sentence(prefix: Prefix, target: str, folder: Path, contents: dict[str, bytes], window: int | None) -> str:
    sites = [site for site in ("encoder", "decoder", "cross") if getattr(prefix, site) is not None]
    whole = f"{', '.join(contents)} in {folder}"
    offset = 0 if target == "adapters" else length(prefix) if target != OURS else int(prefix.position_offset)
    turned = sites == ["decoder"] and offset != int(prefix.position_offset)
    exact = "keys turned for its token positions (exact to float32 rounding)" if turned else "bit for bit"
    counted = (
        f"; PEFT counts a prefix into this model's window of {window} tokens: longer texts, prefix included, differ"
    )
    return f"wrote {whole}: {length(prefix)} virtual tokens on {', '.join(sites)}, {exact}{counted if window else ''}"


def define_flags() -> None:
    cli.define_path("from", None, "A run, or a folder of any format.")
    flags.DEFINE_enum("to", None, (OURS, *FORMATS), "The format to write.")
    cli.define_path("out", None, "The folder to write; must be empty.")
    flags.DEFINE_string("name", "prefix", "Name of the adapter, for adapters.")
    cli.define_path("model", "", "The base model, where the files do not describe it.")
    flags.DEFINE_bool("overwrite", False, "Replace files in --out.")


def main(options: flags.FlagValues) -> None:
    source, target = options["from"].value or "", options.to
    cli.required(**{"from": source}, to=target, out=options.out)
    print(convert(source, target, options.out, options.name, options.model, options.overwrite))


if __name__ == "__main__":
    cli.run(main, define_flags)
