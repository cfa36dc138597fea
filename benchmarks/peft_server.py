"""`python -m benchmarks.peft_server MODEL ADAPTERS DTYPE --port=P`: transformers with PEFT behind OpenAI's completions.

What there is to serve many prefixes with: all adapters on one model, `set_adapter` for each request, and one request at
a time, since PEFT applies one prefix to a batch.
"""

import argparse
import asyncio
import json
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import torch
import uvicorn
from peft import PeftModel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.generation.streamers import BaseStreamer


class _Queue(BaseStreamer):
    """Passes tokens from the thread that generates to the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, queue: asyncio.Queue):
        self._loop, self._queue, self._prompt = loop, queue, True

    def put(self, value: torch.Tensor) -> None:
        if not self._prompt:
            self._loop.call_soon_threadsafe(self._queue.put_nowait, value.flatten().tolist())
        self._prompt = False

    def end(self) -> None:
        self._loop.call_soon_threadsafe(self._queue.put_nowait, None)


def application(model: Any, tokenizer: Any) -> Starlette:
    """Returns the application, for streamed completions of token ids."""
    lock = threading.Lock()

    def generate(body: dict[str, Any], queue: _Queue) -> None:
        with lock, torch.no_grad():
            model.set_adapter(body["model"])
            ids, most = torch.tensor([body["prompt"]]), body["max_tokens"]
            model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=most,
                min_new_tokens=body.get("min_tokens", 0), streamer=queue,
            )  # fmt: skip

    async def completions(request: Request) -> StreamingResponse:
        body, queue = await request.json(), asyncio.Queue()
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(None, generate, body, _Queue(loop, queue))

        async def events() -> AsyncIterator[str]:
            count = 0
            while (ids := await queue.get()) is not None:
                count += len(ids)
                choice = {"index": 0, "text": tokenizer.decode(ids), "finish_reason": None, "logprobs": None}
                yield _event(body["model"], [choice], None)
            await work
            usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": count, "total_tokens": 0}
            yield _event(body["model"], [], usage)
            yield "data: [DONE]\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    return Starlette(routes=[Route("/v1/completions", completions, methods=["POST"])])


def _event(model: str, choices: list[dict[str, Any]], usage: dict[str, int] | None) -> str:
    body = {"id": "x", "object": "text_completion", "created": 0, "model": model, "choices": choices, "usage": usage}
    return f"data: {json.dumps(body)}\n\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "adapters", "dtype"):
        parser.add_argument(name)
    parser.add_argument("--port", type=int)
    options = parser.parse_args()
    base = AutoModelForCausalLM.from_pretrained(options.model, dtype=getattr(torch, options.dtype))
    names = sorted(path.name for path in Path(options.adapters).iterdir())
    model = PeftModel.from_pretrained(base, f"{options.adapters}/{names[0]}", adapter_name=names[0])
    for name in names[1:]:
        model.load_adapter(f"{options.adapters}/{name}", adapter_name=name)
    app = application(model.eval(), AutoTokenizer.from_pretrained(options.model))
    uvicorn.run(app, port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
