"""The HTTP application: OpenAI's endpoints, those for adapters, health, metrics, and a page to try adapters on."""

import asyncio
import contextlib
import dataclasses
import hmac
import json
import threading
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib import resources
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from prefix_jax.errors import UserError
from prefix_jax.serving import telemetry
from prefix_jax.serving.adapters import Adapters
from prefix_jax.serving.engine import Busy, Engine, Unknown
from prefix_jax.serving.jobs import Job, Piece, Prompt, prompt_of_chat, prompts_of
from prefix_jax.serving.protocol import (
    ChatCompletion,
    Completion,
    Generation,
    LoadAdapter,
    Refused,
    UnloadAdapter,
    decoded,
    parsed,
)
from prefix_jax.serving.responses import Chat, Completions, Envelope, Form

Handler = Callable[[Request], Awaitable[Response]]
# The page's script and style are in it, and it asks this server alone.
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:"
_KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


@dataclasses.dataclass(frozen=True)
class Limits:
    """What the server accepts: the size of a body in bytes, answers of a request, and seconds for one."""

    body: int = 1 << 20
    answers: int = 128
    seconds: float = 600.0


class Server:
    """The state of an application; `name` is that of the bare model."""

    def __init__(self, engine: Engine, adapters: Adapters, name: str, key: str = "", limits: Limits = Limits()):
        self.engine, self.adapters, self.name, self.key, self.limits = engine, adapters, name, key, limits
        self.telemetry = telemetry.Telemetry(engine)
        self.ready = self.draining = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._leave = threading.Event()
        self._created = int(time.time())

    def start(self) -> None:
        """Starts the engine's thread."""
        self._thread.start()
        self.ready = True

    def stop(self, seconds: float = 30.0) -> None:
        """Refuses new requests, waits for those that run, and ends the engine's thread."""
        self.draining = True
        limit = time.monotonic() + seconds
        while self.engine.counts != (0, 0) and time.monotonic() < limit:
            time.sleep(0.02)
        self._leave.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._leave.is_set():
            try:
                if not self.engine.step():
                    self.engine.wait(0.2)
            except Exception as error:  # of the device: requests end, the server stays
                telemetry.log(level="error", message=f"a step failed: {error!r}")
                self.engine.abort_all("the server could not compute the answer; try again")

    def app(self) -> Starlette:
        """Returns the application."""
        post, get = ["POST"], ["GET"]
        routes = [
            Route("/", self._page, methods=get),
            Route("/health", self._health, methods=get),
            Route("/ready", self._ready, methods=get),
            Route("/metrics", self._metrics, methods=get),
            Route("/v1/models", self._guarded(self._models), methods=get),
            Route("/v1/models/{name:path}", self._guarded(self._model), methods=get),
            Route("/v1/completions", self._guarded(self._completions), methods=post),
            Route("/v1/chat/completions", self._guarded(self._chat), methods=post),
            Route("/v1/load_lora_adapter", self._guarded(self._load), methods=post),
            Route("/v1/unload_lora_adapter", self._guarded(self._unload), methods=post),
            Route("/v1/adapters", self._guarded(self._load), methods=post),
            Route("/v1/adapters/{name}", self._guarded(self._delete), methods=["DELETE"]),
        ]
        errors: Any = {404: self._not_found, 405: self._not_found}
        return Starlette(routes=routes, lifespan=self._lifespan, exception_handlers=errors)

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self.start()
        yield
        await run_in_threadpool(self.stop)

    def _guarded(self, handler: Handler) -> Handler:
        """Returns a handler behind the key, whose errors are OpenAI's, and whose requests are logged."""

        async def guarded(request: Request) -> Response:
            request.state.id = _request_id(request)
            start, said = time.perf_counter(), ""
            try:
                self._authorised(request)
                response = await handler(request)
            except ClientDisconnect:
                response, said = Response(status_code=499), "the client left"
            except Exception as error:
                said = str(error) or repr(error)
                response = _error(error)
            response.headers["x-request-id"] = request.state.id
            seconds = round(time.perf_counter() - start, 4)
            line = {"method": request.method, "path": request.url.path, "status": response.status_code}
            telemetry.log(id=request.state.id, **line, seconds=seconds, **({"error": said} if said else {}))
            return response

        return guarded

    def _authorised(self, request: Request) -> None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if self.key and not hmac.compare_digest(given.encode(), self.key.encode()):
            raise Refused("the API key is missing or wrong; send it as Authorization: Bearer KEY", 401)

    async def _completions(self, request: Request) -> Response:
        body = parsed(Completion, await self._json(request))
        if body.best_of not in (None, body.n or 1):
            raise Refused("best_of is not supported; leave it out", param="best_of")
        if body.echo and self.engine.model.model_config.is_encoder_decoder:
            raise Refused("echo is for decoder-only models; leave it out", param="echo")
        name, own = await self._own(body)
        prompts = prompts_of(body, self.adapters.session, own)
        form = Completions(prompts, body.n or 1, bool(body.echo), body.logprobs is not None, self._word)
        return await self._answer(request, body, name, prompts, form)

    async def _chat(self, request: Request) -> Response:
        body = parsed(ChatCompletion, await self._json(request))
        name, _ = await self._own(body)
        prompt = prompt_of_chat(body, self.adapters.session)
        return await self._answer(request, body, name, [prompt], Chat(bool(body.logprobs), self._word))

    async def _own(self, body: Generation) -> tuple[str | None, Any]:
        """Returns the name of a body's prefix and its session; None for the bare model."""
        if self.draining:
            raise Refused("the server is shutting down; try again later", 503)
        if body.model == self.name:
            return None, None
        return body.model, await run_in_threadpool(self.adapters.ready, body.model)

    async def _answer(
        self, request: Request, body: Generation, name: str | None, prompts: list[Prompt], form: Form
    ) -> Response:
        if len(prompts) * (body.n or 1) > self.limits.answers:
            raise Refused(f"the request asks for more than {self.limits.answers} answers; send several requests")
        again = lambda: None if name is None else self.adapters.ready(name)
        clock = self.telemetry.clock(body.model)
        job = Job.submitted(self.engine, body, name, prompts, self.adapters.session, again)
        envelope = Envelope(form, body.model)
        if body.stream:
            usage = body.stream_options is not None and body.stream_options.include_usage
            events = self._events(job, envelope, clock, usage)
            return StreamingResponse(events, media_type="text/event-stream", headers={"cache-control": "no-cache"})
        found = await self._whole(request, job, clock)
        choices = [form.choice(pieces, index) for index, pieces in sorted(found.items())]
        return JSONResponse(envelope.whole(choices, job.usage))

    async def _whole(self, request: Request, job: Job, clock: telemetry.Clock) -> dict[int, list[Piece]]:
        """Returns all pieces by answer; cancels the job where the client leaves or the time is over."""
        found: dict[int, list[Piece]] = {}

        async def collect() -> None:
            async for piece in job.pieces():
                clock.token()
                found.setdefault(piece.index, []).append(piece)

        work, gone = asyncio.create_task(collect()), asyncio.create_task(_left(request))
        try:
            await asyncio.wait({work, gone}, timeout=self.limits.seconds, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
            elif gone.done():
                raise ClientDisconnect
            else:
                raise Refused(f"the answer took more than {self.limits.seconds:g} seconds; ask for fewer tokens", 503)
        finally:
            for task in (work, gone):
                task.cancel()
            job.cancel()
        clock.end([pieces[-1].finish or "" for pieces in found.values()], job.usage)
        return found

    async def _events(self, job: Job, envelope: Envelope, clock: telemetry.Clock, usage: bool) -> AsyncIterator[str]:
        """Yields server-sent events: the pieces, then the usage if asked for, then `[DONE]`; or an error."""
        begun: set[int] = set()
        ends: list[str] = []
        try:
            async with asyncio.timeout(self.limits.seconds):
                async for piece in job.pieces():
                    clock.token()
                    if piece.index not in begun:
                        begun.add(piece.index)
                        if (first := envelope.form.first(piece.index)) is not None:
                            yield _event(envelope.part([first]))
                    yield _event(envelope.part([envelope.form.piece(piece)]))
                    ends += [piece.finish] if piece.finish else []
            if usage:
                yield _event(envelope.part([], job.usage))
            yield "data: [DONE]\n\n"
        except TimeoutError:
            late = Refused(f"the answer took more than {self.limits.seconds:g} seconds; ask for fewer tokens", 503)
            yield _event(_error_body(late))
        except UserError as error:
            yield _event(_error_body(error))
        finally:
            job.cancel()
            clock.end(ends, job.usage)

    async def _models(self, _: Request) -> Response:
        names = [self.name, *self.adapters.names()]
        return JSONResponse({"object": "list", "data": [self._about(name) for name in names]})

    async def _model(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in (self.name, *self.adapters.names()):
            raise Refused(f'the model "{name}" does not exist', 404, "model_not_found")
        return JSONResponse(self._about(name))

    def _about(self, name: str) -> dict[str, Any]:
        parent = None if name == self.name else self.name
        length = self.engine.capacity if (window := self.engine.model.model_config.context_length) is None else window
        return {
            "id": name,
            "object": "model",
            "created": self._created,
            "owned_by": "prefix_jax",
            "parent": parent,
            "root": self.name,
            "max_model_len": min(length, self.engine.capacity),
        }

    async def _load(self, request: Request) -> Response:
        body = parsed(LoadAdapter, await self._json(request))
        if body.lora_name == self.name:
            raise Refused(f'"{self.name}" is the name of the model; give the adapter another', param="lora_name")
        await run_in_threadpool(self.adapters.load_allowed, body.lora_name, body.lora_path)
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' added successfully.")

    async def _unload(self, request: Request) -> Response:
        name = parsed(UnloadAdapter, await self._json(request)).lora_name
        self.adapters.remove(name)
        return PlainTextResponse(f"Success: LoRA adapter '{name}' removed successfully.")

    async def _delete(self, request: Request) -> Response:
        self.adapters.remove(request.path_params["name"])
        return Response(status_code=204)

    async def _health(self, _: Request) -> Response:
        return Response(status_code=200 if self._thread.is_alive() else 503)

    async def _ready(self, _: Request) -> Response:
        return Response(status_code=200 if self.ready and not self.draining else 503)

    async def _metrics(self, _: Request) -> Response:
        return Response(self.telemetry.text(), media_type=telemetry.CONTENT_TYPE)

    async def _page(self, _: Request) -> Response:
        text = resources.files("prefix_jax.serving").joinpath("page.html").read_text(encoding="utf-8")
        return HTMLResponse(text, headers={"content-security-policy": POLICY})

    async def _not_found(self, request: Request, error: Any) -> Response:
        said = f"there is no {request.method} {request.url.path}; see /v1/models, /v1/completions"
        return _error(Refused(said, error.status_code))

    async def _json(self, request: Request) -> Any:
        """Returns the body of a request.

        Raises:
          Refused: it is too large, or is not JSON.
        """
        most, data = self.limits.body, b""
        async for chunk in request.stream():
            data += chunk
            if len(data) > most:
                raise Refused(f"the body has more than {most:,} bytes; send less", 413)
        return decoded(data)

    def _word(self, token: int) -> str:
        return self.adapters.session.tokenizer.decode([token], clean_up_tokenization_spaces=False)


async def _left(request: Request) -> None:
    """Returns when the client has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _request_id(request: Request) -> str:
    given = request.headers.get("x-request-id", "")
    return given if given.isprintable() and 0 < len(given) <= 128 else uuid.uuid4().hex


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"


def _error_body(error: Exception) -> dict[str, Any]:
    status = _status(error)
    kind = _KINDS.get(status, "invalid_request_error" if status < 500 else "server_error")
    said = str(error) if isinstance(error, UserError) else "the server failed; its log says why"
    code, param = getattr(error, "code", None), getattr(error, "param", None)
    return {"error": {"message": said, "type": kind, "param": param, "code": code or status}}


def _status(error: Exception) -> int:
    if isinstance(error, Refused):
        return error.status
    if isinstance(error, Busy):
        return 429
    if isinstance(error, Unknown):
        return 404
    return 400 if isinstance(error, UserError) else 500


def _error(error: Exception) -> JSONResponse:
    status = _status(error)
    later = {"retry-after": "1"} if status in (429, 503) else {}
    return JSONResponse(_error_body(error), status, headers=later)
