"""One training step, and requests to an engine, on one device and on meshes of eight, in a process of its own.

Prints JSON.

`python -m tests.parallel.sharded ROWS FOLDER '[{"name": ..., "source": DIR, "meshes": [[data, fsdp, tensor], ...],
"options": {"option": value}}, ...]'`
"""

import dataclasses
import json
import sys
from pathlib import Path

import jax
import numpy as np

jax.config.update("jax_num_cpu_devices", 8)

from prefix_jax.config import default_config  # noqa: E402
from prefix_jax.decoding.shelf import Kind  # noqa: E402
from prefix_jax.serving.engine import Engine, Request, Sampling, Token  # noqa: E402
from prefix_jax.training import session  # noqa: E402
from prefix_jax.training.step import make_step  # noqa: E402
from prefix_jax.training.trainer import prepare  # noqa: E402
from tests.models.torch_models import random_prefix  # noqa: E402


def step(source: str, rows: str, mesh: list[int], devices: list, workdir: str, options: dict) -> dict:
    config = default_config()
    config.model.source = source
    config.mesh.update(dict(zip(("data", "fsdp", "tensor"), mesh, strict=True)))
    config.data.update(task="text", path=rows)
    config.prefix.update(length=3, hidden=16)
    config.training.update(batch=8, evaluate_every=0, steps=2)
    config.update_from_flattened_dict(options)
    opened = session.open_session(config, devices)
    # The kernel is interpreted here, and a session takes it for TPUs only.
    if config.model.attention == "fused" and len(devices) > 1:
        opened = dataclasses.replace(opened, model=opened.model.clone(kernel="pallas"))
    trainer = prepare(opened, Path(workdir), [])
    state = trainer.initial()
    held = bytes_on_a_device(opened.base)
    run = make_step(opened.model, trainer.method, shardings=trainer.shardings(state))
    losses, norms = [], []
    for number in range(2):
        state, metrics = run(opened.base, trainer.hyper, state, trainer.batch_at(number))
        losses.append(float(metrics["loss"]))
        norms.append(float(metrics["gradient_norm"]))
    return {
        "losses": losses,
        "norms": norms,
        # Adam's first moment after two steps: nine tenths of the first gradient and the second.
        "gradient": jax.tree.map(np.array, state.optimizer[0].inner_state[1].mu),
        "base": held,
        "state": bytes_on_a_device(state),
        "shape": trainer.batches.shape,
    }


def bytes_on_a_device(tree) -> list[int]:
    """Returns what each device holds of the arrays of a tree."""
    found: dict = {}
    for leaf in jax.tree.leaves(tree):
        for shard in leaf.addressable_shards:
            found[shard.device.id] = found.get(shard.device.id, 0) + shard.data.nbytes
    return sorted(found.values())


def measure(rows: str, workdir: str, source: str, meshes: list[list[int]], options: dict) -> dict:
    """Returns the differences between one device and each mesh, and the bytes on each device."""
    alone = step(source, rows, [1, 1, 1], jax.devices()[:1], workdir, options)
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(alone["gradient"]))
    found = []
    for mesh in meshes:
        # The same run directory: a run that goes on elsewhere keeps its batches.
        here = step(source, rows, mesh, jax.devices(), workdir, options)
        assert here["shape"] == alone["shape"]
        difference = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), alone["gradient"], here["gradient"])
        found.append(
            {
                "mesh": mesh,
                "loss": max(abs(a - b) for a, b in zip(alone["losses"], here["losses"], strict=True)),
                "norm": max(abs(a / b - 1) for a, b in zip(alone["norms"], here["norms"], strict=True)),
                "gradient": max(jax.tree.leaves(difference)) / largest,
                "base": here["base"],
                "state": here["state"],
            }
        )
    return {"alone": {"base": alone["base"], "state": alone["state"]}, "meshes": found}


def served(source: str, mesh: list[int], devices: list) -> dict:
    """Returns the tokens of requests with and without a prefix, and how many programs they compiled."""
    config = default_config()
    config.model.source = source
    config.mesh.update(dict(zip(("data", "fsdp", "tensor"), mesh, strict=True)))
    opened = session.open_session(config, devices)
    engine = Engine(opened.model, opened.base, slots=2, capacity=32, kind=Kind(8))
    engine.put("prefix", random_prefix(opened.model_config, 3, 1))
    engine.warm()
    programs, tokens = engine.programs(), []
    for row, name in enumerate(("prefix", None, "prefix")):
        tokens.append(found := [])
        emit = lambda event, found=found: found.append(event.id if isinstance(event, Token) else event.reason)
        ids = list(range(5 + row, 9 + row))
        engine.submit(Request(ids, name, Sampling(6, min_tokens=6, temperature=0), emit))
    while engine.step():
        pass
    return {"tokens": tokens, "compiled": engine.programs() - programs}


def main() -> None:
    rows, folder, cases = sys.argv[1:]
    found = {}
    for case in json.loads(cases):
        name = case.pop("name")
        if meshes := case.pop("serve", ()):
            alone = served(case["source"], [1, 1, 1], jax.devices()[:1])
            found[f"serve {name}"] = {
                "alone": alone, "meshes": [served(case["source"], mesh, jax.devices()) for mesh in meshes]
            }  # fmt: skip
        found[name] = measure(rows, f"{folder}/runs/{name}", **case)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
