"""`prefix-jax serve --model flan-t5-small --tuned formal=DIR --tuned casual=DIR`

Serves a model and what was tuned on it (prefixes, prompts, LoRA) by OpenAI's API, on http://127.0.0.1:8000 unless
`--host` and `--port` say otherwise: `/v1/completions`, `/v1/chat/completions` and `/v1/models`, where `model` is the
name of one of these. With `--tuned_dir`, every run directory in a folder is served, without a restart. Needs
`pip install 'prefix_jax[serve]'`.
"""

import contextlib
import os
import sys
from pathlib import Path
from typing import Any

from absl import flags

from prefix_jax import cli, extras
from prefix_jax.errors import UserError

# Length of the longest prefix where no option names it and the given ones are shorter.
_PREFIX = 32
_KEY = "PREFIX_JAX_API_KEY"


def define_flags() -> None:
    cli.define_path("model", None, "The model: a name, a directory, a hub id or a GGUF file; else that of --tuned.")
    flags.DEFINE_multi_string("tuned", None, "NAME=DIR: a prefix, a prompt or LoRA; may be given several times.")
    cli.define_path("tuned_dir", None, "A folder of run directories, which are served by their names.")
    flags.DEFINE_string("host", "127.0.0.1", "The address to listen on; 0.0.0.0 for all.")
    flags.DEFINE_integer("port", 8000, "The port to listen on; 0 for a free one.", 0, 65535)
    flags.DEFINE_integer("slots", 8, "Requests that run together.", 1)
    flags.DEFINE_integer(
        "context", None, "Longest prompt with its answer, in tokens; by default 1024 or the model's.", 1
    )
    flags.DEFINE_integer("max_prefix", None, "Greatest length of a prefix; by default 32, or that of --tuned.", 1)
    flags.DEFINE_integer("max_adapters", 64, "Tuned states on the devices; the least recently used are reloaded.", 1)
    flags.DEFINE_integer("beams", 0, "Beams of requests with use_beam_search; 0: they are refused.", 0)
    flags.DEFINE_integer("beam_tokens", 128, "Most new tokens of a beam search.", 1)
    flags.DEFINE_integer("queue", 256, "Waiting requests, beyond which others get the status 429.", 1)
    flags.DEFINE_integer("max_body", 1 << 20, "Largest body of a request, in bytes.", 1)
    flags.DEFINE_float("timeout", 600.0, "Longest time for a request, in seconds.", 0.1)
    flags.DEFINE_bool("warm", True, "Compile every program before the first request.")
    flags.DEFINE_string("api_key", None, f"A key that requests must send; by default that of ${_KEY}, if it is set.")
    cli.define_overrides()


def main(options: flags.FlagValues) -> None:
    for name in ("starlette", "uvicorn", "prometheus_client", "pydantic"):
        extras.require(name, "serve")
    named = dict(_named(one) for one in options.tuned or ())
    if not (options.model or named):
        raise UserError("--model is missing; name the model, or give --tuned NAME=DIR")
    if options.tuned_dir and not Path(options.tuned_dir).is_dir():
        raise UserError(f"{options.tuned_dir} is not a directory; create it, or correct --tuned_dir")
    cli.enable_compile_cache()
    server = _server(options, named)
    from prefix_jax.serving import listening

    names = server.adapters.names()
    about = f"{server.name} with {', '.join(names[:5])}{' ...' if len(names) > 5 else ''}" if names else server.name
    listening.run(server.app(), options.host, options.port, about)


def _named(text: str) -> tuple[str, Path]:
    name, mark, folder = text.partition("=")
    if not mark:
        raise UserError(f"--tuned={text} has no name; give it one, as --tuned formal={text}")
    return name, Path(cli.path(folder))


def _server(options: flags.FlagValues, named: dict[str, Path]) -> Any:
    """Returns the server with its model and prefixes loaded, and its programs compiled."""
    from prefix_jax import inference
    from prefix_jax.config import default_config
    from prefix_jax.decoding.generation_config import OfModel
    from prefix_jax.inference.generation import decoding_options
    from prefix_jax.serving.adapters import Adapters, opened
    from prefix_jax.serving.app import Limits, Server
    from prefix_jax.serving.engine import Engine
    from prefix_jax.training.session import open_session

    overrides = cli.overrides(options)
    named = {name: inference.located(place) for name, place in named.items()}
    if options.model:
        overrides = {**overrides, "model.source": options.model}
    if named:
        first, *others = named
        tuned = {first: inference.open_tuned(named[first], overrides)}
        session = tuned[first].session
        tuned |= {name: opened(named[name], session) for name in others}
    else:
        config = default_config()
        config.update_from_flattened_dict(overrides)
        session, tuned = open_session(config), {}
    folder = None if options.tuned_dir is None else Path(options.tuned_dir)
    kind = _kind([one.kept for one in (*tuned.values(), *_not_prefixes(folder, session))], options.max_prefix)
    window = session.model_config.context_length
    found = decoding_options(session)
    if found.banned_sequences:
        print("the model's bad_words_ids of several tokens are not banned while serving", file=sys.stderr)
    engine = Engine(
        session.model,
        session.base,
        slots=options.slots,
        capacity=options.context or min(1024, window or 1024),
        kind=kind,
        prefixes=options.max_adapters,
        queue=options.queue,
        beams=options.beams,
        beam_tokens=options.beam_tokens,
        of_model=OfModel(found.forced_bos, found.forced_eos, (), found.banned_tokens),
        more_ends=found.more_ends,
    )
    adapters = Adapters(session, engine, folder)
    for name, one in tuned.items():
        adapters.add(name, one)
    if options.warm:
        print("compiling ...", file=sys.stderr, flush=True)
        engine.warm()
    limits = Limits(body=options.max_body, seconds=options.timeout)
    name = str(session.config.model.source).rstrip("/").rpartition("/")[2]
    if name in adapters.names():
        raise UserError(f'"{name}" is the name of the model and of a prefix; give the prefix another name')
    return Server(engine, adapters, name, options.api_key or os.environ.get(_KEY, ""), limits)


def _kind(states: list[Any], longest: int | None) -> Any:
    """Returns the kind of the bank's only shelf, on which all these states fit: how prefixes are seen is that of the
    first one, their greatest length the given one, if any.
    """
    from prefix_jax.decoding.shelf import Kind, kind_of, widest
    from prefix_jax.models.prefix import length

    prefixes = [state.prefix for state in states if state.prefix is not None]
    found = widest([*(kind_of(state) for state in states if state.prefix is not None), *map(kind_of, states), Kind(1)])
    return found._replace(infix=False, capacity=longest or max([_PREFIX, *map(length, prefixes)]))


def _not_prefixes(folder: Path | None, session: Any) -> list[Any]:
    """Returns the prompts and LoRA in a folder, for which the bank needs room; what cannot be loaded is left out."""
    from prefix_jax.serving.adapters import opened
    from prefix_jax.tuning import store

    found = []
    for path in sorted(folder.iterdir()) if folder is not None else ():
        with contextlib.suppress(UserError):
            if store.COLLECTIONS.find(path):
                found.append(opened(path, session))
    return found


if __name__ == "__main__":
    cli.run(main, define_flags)
