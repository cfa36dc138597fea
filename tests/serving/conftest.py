"""A server of a tiny model with two prefixes and a folder of more, on a port of this machine."""

import contextlib
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import prefix_jax as pj
from tests import tiny
from tests.models.torch_models import random_prefix

PAIRS = [(row["source"], row["target"]) for row in tiny.rows(12)]
TEMPLATE = (
    "{% for message in messages %}<s>{{ message.role }}: {{ message.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant:{% endif %}"
)
KEY = "a-key"


class Running(NamedTuple):
    """A server that runs, and what it serves."""

    url: str
    server: Any
    lm: pj.LanguageModel
    tuned: dict[str, pj.Tuned]
    folder: Path
    model: Path


@contextlib.contextmanager
def listening(server: Any):
    """Runs a server in a thread, and yields its address."""
    import socket

    import uvicorn

    config = uvicorn.Config(server.app(), log_config=None, log_level="warning")
    http = uvicorn.Server(config)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=http.run, args=([listener],), daemon=True)
        thread.start()
        while not http.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        http.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    """A model with a chat template, and the run directories of prefixes of it."""
    pytest.importorskip("torch")
    pytest.importorskip("starlette")
    from transformers import AutoTokenizer

    model = tiny.save_model(tmp_path_factory.mktemp("served") / "tiny-llama", "llama", scale=8.0)
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(model)
    lm = pj.load_model(model)
    folder = tmp_path_factory.mktemp("tuned")
    for seed, (name, length) in enumerate((("formal", 3), ("casual", 9), ("dir/late", 3))):
        pj.Tuned.from_prefix(lm, random_prefix(lm.config, length, seed)).save(folder / name)
    options = {"training.batch": 2, "training.tensorboard": False, "optimizer.learning_rate": 0.3}
    for name, method in (("lora", pj.LoRA(rank=2)), ("prompt", pj.Prompt(length=3)), ("adapter", pj.Adapter(width=2))):
        place = folder / ("" if name == "adapter" else "dir") / name
        pj.tune(lm, PAIRS, method, steps=2, options=options, workdir=place)
    return model, lm, folder


@pytest.fixture(scope="session")
def running(served):
    """The server, warm, with a key and short limits."""
    from prefix_jax.decoding.shelf import Kind, kind_of, widest
    from prefix_jax.serving.adapters import Adapters
    from prefix_jax.serving.app import Limits, Server
    from prefix_jax.serving.engine import Engine

    model, lm, folder = served
    session = lm._session
    names = ("formal", "casual", "dir/late", "dir/lora", "dir/prompt")
    tuned = {name.rpartition("/")[2]: pj.load(folder / name, lm) for name in names}
    kind = widest([Kind(16), *(kind_of(one._kept) for one in tuned.values())])
    engine = Engine(
        session.model, session.base, slots=4, capacity=128, kind=kind, prefixes=8, queue=64,
        more_ends=session.more_ends,
    )  # fmt: skip
    adapters = Adapters(session, engine, folder / "dir")
    for name in ("formal", "casual"):
        adapters.load(name, folder / name)
    engine.warm()
    server = Server(engine, adapters, "tiny-llama", KEY, Limits(body=1 << 16, answers=16, seconds=60))
    with listening(server) as url:
        yield Running(url, server, lm, tuned, folder / "dir", model)
