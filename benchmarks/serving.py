"""`python -m benchmarks.serving [--what bank,many,first,server,soak] [--model NAME]`: many prefixes on one model.

bank: 32 inputs with 32 prefixes in a batch, beside 32 inputs with one prefix. many: a bank of 1,000 prefixes beside one
of 10: memory and speed. first: the time to the first token with a prefix, beside that with as many tokens of text
before the input, computed and cached. server: clients with prefixes of their own, whose requests arrive at random
moments (a Poisson process), at our server and at transformers with PEFT behind the same API, which answers one request
at a time with `set_adapter`. soak: requests of all kinds, some of whose clients leave: what is lost, the memory of the
server, and how many programs it compiles. Prefixes are random numbers, on which time does not depend. Writes
`benchmarks/results/serving_NAME.json`.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import prefix_jax as pj
from benchmarks.run import RESULTS, write
from prefix_jax import decoding
from prefix_jax.decoding.bank import Bank
from prefix_jax.decoding.generate import decode_from_bank
from prefix_jax.decoding.shelf import Kind
from prefix_jax.models.model_config import ModelConfig
from prefix_jax.models.prefix import Prefix, PrefixKV
from prefix_jax.serving.engine import Engine, Request, Sampling

ROWS, NEW, LENGTH, ROUNDS = 32, 32, 10, 5
CLIENTS, TENANTS = 16, 8


def random_prefix(model_config: ModelConfig, seed: int, length: int = LENGTH) -> Prefix:
    """Returns a prefix of small random numbers in all layers of all sites."""
    generator = np.random.default_rng(seed)

    def site(name: str) -> PrefixKV:
        shape = (model_config.site_layers(name), model_config.kv_heads, length, model_config.head_dim)
        draw = lambda: np.float32(0.1) * generator.standard_normal(shape, np.float32)
        return PrefixKV(draw(), draw())

    return Prefix(**{name: site(name) for name in model_config.sites})


def inputs(lm: pj.LanguageModel, count: int) -> list[list[int]]:
    """Returns token ids of `count` inputs of the lighthouse set."""
    from prefix_jax import tasks

    sources = [record.source for record in tasks.pairs("lighthouse", "test")]
    return [lm.tokenizer(sources[i % len(sources)])["input_ids"] for i in range(count)]


class Compared(NamedTuple):
    """Two functions that took turns: the median of the seconds of each, and of the ratio of two that follow."""

    first: float
    second: float
    ratio: float


def compared(first: Callable[[], Any], second: Callable[[], Any], rounds: int = ROUNDS) -> Compared:
    """Returns the times of two functions, which take turns in changing order; the first turn compiles."""
    seconds: list[dict[int, float]] = []
    for turn in range(rounds + 1):
        found: dict[int, float] = {}
        for place in (0, 1) if turn % 2 else (1, 0):
            began = time.perf_counter()
            (first, second)[place]()
            found[place] = time.perf_counter() - began
        seconds.append(found)
    known = seconds[1:]
    middle = lambda place: statistics.median(one[place] for one in known)
    return Compared(middle(0), middle(1), statistics.median(one[0] / one[1] for one in known))


def bank_case(lm: pj.LanguageModel) -> dict[str, Any]:
    """Measures a batch whose rows have prefixes of their own, beside one prefix for all."""
    ids, config = inputs(lm, ROWS), lm.config
    options = decoding.GenerationConfig(strategy="greedy", max_length=NEW, min_length=NEW)
    bank = Bank(config)
    for i in range(ROWS):
        bank.put(str(i), random_prefix(config, i))
    one, names = random_prefix(config, 0), [str(i) for i in range(ROWS)]
    found = compared(
        lambda: decoding.decode_all(lm.model, lm.variables, one, ids, options, ROWS),
        lambda: decode_from_bank(lm.model, lm.variables, bank, names, ids, options, ROWS),
    )
    rates = {"one": round(ROWS * NEW / found.first, 1), "own": round(ROWS * NEW / found.second, 1)}
    return {"tokens_per_second": rates, "own over one": round(found.ratio, 3)}


def many_case(lm: pj.LanguageModel) -> dict[str, Any]:
    """Measures a bank of 1,000 prefixes beside one of 10."""
    ids, config = inputs(lm, ROWS), lm.config
    options = decoding.GenerationConfig(strategy="greedy", max_length=NEW, min_length=NEW)
    banks = {}
    for count in (10, 1000):
        banks[count] = Bank(config)
        for i in range(count):
            banks[count].put(str(i), random_prefix(config, i % 10, 8))
    one = random_prefix(config, 0, 8)
    size = sum(leaf.nbytes for site in config.sites for leaf in (getattr(one, site).key, getattr(one, site).value))
    held = sum(leaf.nbytes for shelf in banks[1000].shelves.values() for leaf in _arrays(shelf))
    run = lambda count: decode_from_bank(
        lm.model, lm.variables, banks[count], [str(i * count // ROWS) for i in range(ROWS)], ids, options, ROWS
    )
    found = compared(lambda: run(10), lambda: run(1000))
    return {
        "bytes of 1000 prefixes": 1000 * size,
        "bytes of the bank": held,
        "memory over files": round(held / (1000 * size), 3),
        "speed of 1000 over 10": round(found.ratio, 3),
    }


def first_case(lm: pj.LanguageModel, length: int = 128) -> dict[str, Any]:
    """Measures the first token after a prefix, and after a text as long as it."""
    engine = Engine(lm.model, lm.variables, slots=2, capacity=512, kind=Kind(length), prefixes=1)
    engine.put("prefix", random_prefix(lm.config, 0, length))
    dice = random.Random(0)
    text = lambda count: [dice.randrange(100, lm.config.vocab_size) for _ in range(count)]
    known, own = text(length), len(inputs(lm, 1)[0])

    def run(ids: list[int], name: str | None) -> None:
        engine.submit(Request(ids, name, Sampling(1, temperature=0), lambda event: None))
        engine.step()

    computed = compared(lambda: run(text(length + own), None), lambda: run(text(own), "prefix"))
    cached = compared(lambda: run([*known, *text(own)], None), lambda: run(text(own), "prefix"))
    seconds = {"text": computed.first, "cached text": cached.first, "prefix": computed.second}
    return {
        "tokens": {"prefix or text": length, "input": own},
        "seconds": {name: round(value, 4) for name, value in seconds.items()},
        "text over prefix": round(computed.ratio, 2),
        "cached text over prefix": round(cached.ratio, 2),
    }


def _arrays(shelf: Any) -> list[Any]:
    import jax

    return jax.tree.leaves(shelf)


def tenants(source: str, dtype: str, folder: Path) -> pj.LanguageModel:
    """Writes prefixes as tuned states, and for PEFT; returns their model."""
    lm = pj.load_model(source, dtype=dtype)
    for i in range(TENANTS):
        tuned = pj.Tuned.from_prefix(lm, random_prefix(lm.config, i))
        tuned.save(folder / "ours" / f"t{i}")
        tuned.to_peft(folder / "peft" / f"t{i}")
    return lm


def our_server(source: str, dtype: str, folder: Path) -> list[str]:
    """Returns the words of the command that serves the tenants."""
    sizes = [f"--slots={CLIENTS}", "--context=256", f"--config.model.dtype={dtype}"]
    return ["-m", "prefix_jax.serve", "--model", source, "--tuned_dir", f"{folder}/ours", *sizes]


def server_case(source: str, dtype: str, requests: int, rate: float) -> dict[str, Any]:
    """Measures both servers under the same arrivals."""
    with tempfile.TemporaryDirectory() as folder:
        lm = tenants(source, dtype, Path(folder))
        prompts = inputs(lm, requests)
        lm.tokenizer.save_pretrained(f"{folder}/base")
        del lm
        subprocess.run(
            [
                sys.executable,
                "-m",
                "benchmarks.worker",
                json.dumps({"case": "prepare", "source": source, "folder": f"{folder}/base"}),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        commands = {
            "ours": our_server(source, dtype, Path(folder)),
            "peft": ["-m", "benchmarks.peft_server", f"{folder}/base", f"{folder}/peft", dtype],
        }
        results = {}
        for side, words in commands.items():
            with serving(words) as (url, _):
                results[side] = asyncio.run(load(url, prompts, rate))
    ratio = results["ours"]["tokens_per_second"] / results["peft"]["tokens_per_second"]
    return {**results, "requests": requests, "arrivals a second": rate, "throughput over PEFT's": round(ratio, 2)}


@contextlib.contextmanager
def serving(words: list[str]) -> Iterator[tuple[str, int]]:
    """Runs a server on a free port until the block ends; yields its address and its process id."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, *words, f"--port={port}"], stderr=subprocess.DEVNULL, env=os.environ)
    try:
        url, limit = f"http://127.0.0.1:{port}", time.monotonic() + 300
        while time.monotonic() < limit:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if process.poll() is not None:
                raise SystemExit(f"{words} ended with {process.returncode}")
            time.sleep(0.2)
        yield url, process.pid
    finally:
        process.terminate()
        process.wait(60)


async def load(url: str, prompts: list[list[int]], rate: float) -> dict[str, Any]:
    """Sends prompts at the moments of a Poisson process, at most `CLIENTS` at once; returns what clients saw."""
    from openai import AsyncOpenAI

    client = AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=600)
    dice, gate = random.Random(0), asyncio.Semaphore(CLIENTS)
    first, between, whole, made = [], [], [], []

    async def one(ids: list[int], tenant: str, moment: float) -> None:
        await asyncio.sleep(moment)
        began = last = time.perf_counter()
        count = 0
        async with gate:
            stream = await client.completions.create(
                model=tenant, prompt=ids, max_tokens=NEW, temperature=0, stream=True, extra_body={"min_tokens": NEW},
                stream_options={"include_usage": True},
            )  # fmt: skip
            async for part in stream:
                now = time.perf_counter()
                if part.usage:
                    count = part.usage.completion_tokens
                elif part.choices and part.choices[0].text:
                    (first if last == began else between).append(now - last)
                    last = now
        whole.append(time.perf_counter() - began)
        made.append(count)

    moments = np.cumsum([dice.expovariate(rate) for _ in prompts])
    await one(prompts[0], "t0", 0)  # the first request of a process is slower
    first, between, whole, made = [], [], [], []
    began = time.perf_counter()
    await asyncio.gather(
        *(one(ids, f"t{dice.randrange(TENANTS)}", float(at)) for ids, at in zip(prompts, moments, strict=True))
    )
    seconds = time.perf_counter() - began
    percentile = lambda values: {f"p{p}": round(float(np.percentile(values, p)), 4) for p in (50, 99)}
    return {
        "tokens_per_second": round(sum(made) / seconds, 1),
        "time to first token, s": percentile(first),
        "between tokens, s": percentile(between),
        "whole request, s": percentile(whole),
    }


def soak_case(source: str, dtype: str, requests: int) -> dict[str, Any]:
    """Sends requests of all kinds, eight at a time; returns what became of them, of memory and of programs."""
    with tempfile.TemporaryDirectory() as folder:
        prompts = inputs(tenants(source, dtype, Path(folder)), 64)
        with serving(our_server(source, dtype, Path(folder))) as (url, pid):
            asyncio.run(soak(url, prompts, requests // 10))  # after which all memory is in use
            before = memory(pid), programs(url)
            began = time.perf_counter()
            ends = asyncio.run(soak(url, prompts, requests))
            seconds = time.perf_counter() - began
            after = memory(pid), programs(url)
    return {
        "requests": requests,
        "seconds": round(seconds, 1),
        "ends": ends,
        "MiB before and after": [round(before[0], 1), round(after[0], 1)],
        "programs before and after": [before[1], after[1]],
    }


async def soak(url: str, prompts: list[list[int]], requests: int) -> dict[str, int]:
    """Sends requests with random options, of which one in ten leaves early; returns how many ended how."""
    from openai import AsyncOpenAI

    client = AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=600)
    dice, gate, ends = random.Random(requests), asyncio.Semaphore(8), Counter[str]()

    async def one(ids: list[int], leaves: bool, options: dict[str, Any]) -> None:
        async with gate:
            stream = await client.completions.create(prompt=ids, stream=True, **options)
            async for part in stream:
                if leaves:
                    await stream.close()
                    ends["left"] += 1
                    return
                if part.choices and part.choices[0].finish_reason:
                    ends[part.choices[0].finish_reason] += 1

    def options() -> dict[str, Any]:
        name = f"t{dice.randrange(TENANTS)}"
        other = f"t{dice.randrange(TENANTS)}"
        return dict(
            model=dice.choice([name, name, f"{name}+{other}" if name != other else name]),
            max_tokens=dice.randrange(1, 24),
            temperature=dice.choice([0, 0.7, 1.3]),
            top_p=dice.choice([1, 0.9]),
            logprobs=dice.choice([None, None, 5]),
            seed=dice.randrange(1000),
        )

    await asyncio.gather(*(one(dice.choice(prompts), dice.random() < 0.1, options()) for _ in range(requests)))
    return dict(ends)


def memory(pid: int) -> float:
    """Returns the resident memory of a process, in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").split("\n")
    return int(next(line for line in lines if line.startswith("VmRSS:")).split()[1]) / 1024


def programs(url: str) -> int:
    """Returns how many programs a server has compiled."""
    with urllib.request.urlopen(f"{url}/metrics") as answer:
        lines = answer.read().decode().split("\n")
    return int(float(next(line for line in lines if line.startswith("prefix_jax:compiled_programs")).split()[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--what", default="bank,many,server")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--requests", type=int, default=96)
    parser.add_argument("--rate", type=float, default=8.0, help="arrivals a second")
    options = parser.parse_args()
    path = RESULTS / f"serving_{options.model}.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    cases = {"bank": bank_case, "many": many_case, "first": first_case}
    for what in options.what.split(","):
        if what in cases:
            found[what] = cases[what](pj.load_model(options.model, dtype=options.dtype))
        elif what == "soak":
            found[what] = soak_case(options.model, options.dtype, options.requests)
        else:
            found[what] = server_case(options.model, options.dtype, options.requests, options.rate)
        print(what, json.dumps(found[what], indent=1), flush=True)
    write(f"serving_{options.model}", {**found, "dtype": options.dtype})


if __name__ == "__main__":
    main()
