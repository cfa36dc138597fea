"""Converts a tuned prefix between file formats: `python -m prefix_jax.convert --from DIR --to peft --out DIR2`.

The format of DIR is found from its files. Numbers are copied bit for bit, except where a model with rotary positions
needs its keys turned to where the target format starts its tokens (exact up to float32 rounding).
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from prefix_jax import cli, disk
from prefix_jax.errors import UserError
from prefix_jax.models.prefix import Prefix, check, length
from prefix_jax.models.specs import Spec, from_hf
from prefix_jax.tuning import files, store
from prefix_jax.tuning.formats import FORMATS, detect

OURS = "prefix_jax"


def convert(source: str, target: str, out: str, name: str = "prefix", model: str = "", overwrite: bool = False) -> str:
    """Reads the prefix in `source`, writes it to `out` in the format `target`, and returns a sentence about it.

    Args:
      source: a run directory, its `tuned/` folder, or a folder of another format.
      target: "prefix_jax", "peft", "adapters" or "original".
      out: the folder to write, absent or empty.
      name: of the adapter, where the format has names.
      model: the base model, for files that do not describe it: a directory with a config.json, a wheel's name or
        a hub id.
      overwrite: whether files in `out` may be replaced.

    Raises:
      UserError: the input is damaged, the target cannot hold such a prefix, or `out` is not empty.
    """
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; name a folder with --out")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise UserError(f"{folder} is not empty; name another folder, or add --overwrite")
    named = spec_of_model(model) if model else None
    form = _format_of(Path(source))
    prefix, spec, meta = _read(Path(source), form, named)
    if model:
        meta["model"] = {**meta["model"], "name": model}
    contents = _encode(target, prefix, spec, meta, name)
    disk.write_all(folder, contents)
    window = getattr(spec, "sliding_window", None) if "peft" in (form, target) else None
    return _sentence(prefix, target, folder, contents, window)


def spec_of_model(source: str) -> Spec:
    """Returns the spec of a model from its `config.json`, or of one that `models.pretrained` finds.

    Raises:
      UserError: there is no such model, or it is not supported.
    """
    config = Path(source) / "config.json"
    if config.is_file():
        try:
            return from_hf(json.loads(config.read_text("utf-8")))
        except (ValueError, KeyError, AttributeError) as error:
            raise UserError(f"{config} is not a model's configuration ({error}); name a model's directory") from None
    from prefix_jax.models.pretrained import open_checkpoint

    return from_hf(open_checkpoint(source).config)


def _format_of(source: Path) -> str:
    if store.PAIR.find(source):
        raise UserError(f"{source} holds more than a prefix, or none; other formats of ours are for prefixes alone")
    return OURS if files.PAIR.find(source) else detect(source)


def _read(source: Path, form: str, spec: Spec | None) -> tuple[Prefix, Spec | None, dict[str, Any]]:
    if form == OURS:
        prefix, meta = files.load(source, spec)
        return prefix, spec or files.spec_of(meta), meta
    prefix, identity = FORMATS[form].read(source, spec)
    if spec is not None:
        check(prefix, spec)
    return prefix, spec, files.meta_of(prefix, identity, spec)


def _encode(target: str, prefix: Prefix, spec: Spec | None, meta: dict[str, Any], name: str) -> dict[str, bytes]:
    if target != OURS:
        if prefix.infix:
            raise UserError(
                "an infix stands between source and target, where other formats have no place for it; keep it as "
                "prefix_jax"
            )
        return FORMATS[target].encode(prefix, spec, meta["model"], name)
    # What the source said beside the prefix (its configuration, its version) is kept.
    described = files.meta_of(prefix, meta["model"], spec)
    return files.encode(prefix, {**described, **{k: v for k, v in meta.items() if k not in ("model", "spec")}})


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


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        cli.fail(f"{message}; --help lists the options")
        raise AssertionError


def main(words: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = _Parser(prog="python -m prefix_jax.convert", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--from", dest="source", required=True, type=cli.path, metavar="DIR", help="a run, or a folder of any format"
    )
    parser.add_argument("--to", dest="target", required=True, choices=(OURS, *FORMATS), help="the format to write")
    parser.add_argument("--out", required=True, type=cli.path, metavar="DIR", help="folder to write; must be empty")
    parser.add_argument("--name", default="prefix", help="name of the adapter, for adapters")
    parser.add_argument("--model", default="", type=cli.path, help="base model, where the files do not describe it")
    parser.add_argument("--overwrite", action="store_true", help="replace files in --out")
    options = parser.parse_args(words)
    with cli.user_errors():
        print(convert(**vars(options)))


if __name__ == "__main__":
    main(sys.argv[1:])
