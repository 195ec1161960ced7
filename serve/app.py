"""The server as an ASGI application: `create_app(["tiny"])` may be mounted in another one.

from dgemma.serve.app import create_app
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from dgemma import __version__
from dgemma.core.shipped import bundle_path
from dgemma.serve import chat, responses
from dgemma.serve.bodies import read, read_json
from dgemma.serve.conversations import Pool
from dgemma.serve.errors import ApiError, from_error
from dgemma.serve.guard import Guard
from dgemma.serve.jobs import Ask, Asks, Done, Event, Jobs
from dgemma.serve.metrics import TYPE, Metrics
from dgemma.serve.models import Model, Models
from dgemma.serve.openapi import document
from dgemma.serve.options import ServeOptions
from dgemma.serve.preparing import Preparing
from dgemma.serve.requests import ChatRequest, CompletionRequest, Generation
from dgemma.serve.streams import Gone, send_bytes, send_events, send_json, while_connected

log = logging.getLogger("dgemma.serve")
PAGE = Path(__file__).parent / "page"
_KINDS = {".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8"}


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """One way to ask for generations: the body's model, what it asks for (in a thread, which gives up where it is told so), the
    form of the answer, where the prompt stands."""

    body: type[Generation]
    asks: Callable[[Model, Any, Callable[[], bool]], list[Ask]]
    form: Callable[[Model, Any], Any]
    prompt: str


ENDPOINTS = {
    "/v1/chat/completions": Endpoint(body=ChatRequest, asks=chat.chat_asks, form=chat.ChatForm, prompt="messages"),
    "/v1/completions": Endpoint(body=CompletionRequest, asks=chat.completion_asks, form=chat.CompletionForm, prompt="prompt"),
    "/v1/responses": Endpoint(
        body=responses.ResponseRequest, asks=responses.response_asks, form=responses.ResponseForm, prompt="input"
    ),
}


class Server:
    """Everything that requests share."""

    def __init__(self, bundles: Sequence[Path], options: ServeOptions) -> None:
        self.options, self.metrics = options, Metrics()
        self.pool = Pool(options.cache_bytes)
        self.models = Models(bundles, options, self.pool)
        self.jobs = Jobs(self.pool, self.metrics, options.max_requests)
        for name, text, value in (
            ("requests_in_progress", "Generating or waiting.", lambda: len(self.jobs)),
            ("turns_waiting", "Generations that wait for a turn.", lambda: self.models.turns.waiting),
            ("conversations_resting", "Prefixes that are kept for later requests.", lambda: self.pool.counts[1]),
            ("cache_bytes", "Keys and values of all conversations.", lambda: sum(self.pool.sizes)),
            ("models_loaded", "Bundles in memory.", self._loaded),
        ):
            self.metrics.gauge(name, text, value)
        self.warming: asyncio.Task[None] | None = None
        self._preparing = Preparing()
        self.openapi = document({path: one.body for path, one in ENDPOINTS.items()}, list(self.models.by_name))

    def _loaded(self) -> int:
        return sum(model.session is not None for model in self.models.by_name.values())

    async def warm(self) -> None:
        """Load the first bundle, and run its graphs once; what goes wrong is said again when it is asked for."""
        first = next(iter(self.models.by_name))
        try:
            async with self.models.use(first) as model:
                await asyncio.to_thread(self._first_call, model)
        except Exception as error:
            log.error("%s: the first call failed: %s", first, error)

    @staticmethod
    def _first_call(model: Model) -> None:
        with model.loaded.another() as session:
            prompt = [model.manifest.model.bos_token_id] if model.manifest.chat is None else "x"
            session.generate(prompt, max_new_tokens=1)

    async def generate(self, endpoint: Endpoint, scope: Scope, receive: Receive, send: Send) -> None:
        """One request for generations, to its end."""
        body = read(read_json(await _body(scope, receive)), endpoint.body)
        self.jobs.admit()
        await while_connected(receive, send, partial(self._generate, endpoint, body))

    async def _generate(self, endpoint: Endpoint, body: Generation, send: Send) -> None:
        until = asyncio.get_running_loop().time() + self.options.timeout_s
        late = ApiError(504, f"the answer took longer than {self.options.timeout_s:g} s", code="timeout")
        async with self.models.use(body.model) as model:
            if self.warming is not None and not self.warming.done():  # which is no turn of another client's
                await asyncio.wait({self.warming})
            names = {"prompt": endpoint.prompt, "messages": endpoint.prompt, **body.names()}
            try:
                asks = await self._asks(endpoint, model, body, until, late)
            except Exception as error:
                raise from_error(error, names) from error
            if self.options.log_prompts:
                log.info("prompt to %s: %s", model.name, body.model_dump(exclude_unset=True))
            form, job = endpoint.form(model, body), self.jobs.start(model, asks, body.frames and body.stream)
            timer = asyncio.get_running_loop().call_at(until, self.jobs.cancel, job, late)
            events = job.events(self.options.keep_alive_s, names)
            try:
                if body.stream:
                    await send_events(send, form.stream(await _begun(events)), job.more)
                else:
                    await send_json(send, form.whole(await self._answers(events)))
            finally:
                timer.cancel()
                if not job.ended.is_set():
                    self.jobs.cancel(job)
                    await asyncio.shield(job.ended.wait())

    async def _asks(self, endpoint: Endpoint, model: Model, body: Generation, until: float, late: ApiError) -> Asks:
        """What a body asks for, which the job finds out, unless it is a structure: that may take long to compile, so neither
        other requests nor the end of the server wait for it. Raises as `Endpoint.asks` and `Preparing.run`."""
        asks: Asks = partial(endpoint.asks, model, body)
        if not body.is_structured:
            return asks
        found = await self._preparing.run(asks, until, late)
        return lambda cancelled: found

    async def stop(self, grace_s: float) -> None:
        """Take no more requests; wait for those at work, and cancel what has not ended in time."""
        self._preparing.stop()
        await self.jobs.stop(grace_s)

    async def _answers(self, events: AsyncIterator[Event]) -> list[Done]:
        done = [event async for event in events if isinstance(event, Done)]
        if self.options.log_prompts:
            log.info("answers: %s", [one.result.text for one in done])
        return done

    async def list_models(self, scope: Scope, receive: Receive, send: Send) -> None:
        data = [model.to_dict() for model in self.models.by_name.values()]
        await send_json(send, {"object": "list", "data": data})

    async def one_model(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_json(send, self.models.find(scope["path_params"]["name"]).to_dict())

    async def health(self, scope: Scope, receive: Receive, send: Send) -> None:
        stopping = self.jobs.stopping
        found = {
            "status": "stopping" if stopping else "ok",
            "version": __version__,
            "requests": len(self.jobs),
            "waiting": self.models.turns.waiting,
            "models": {name: model.session is not None for name, model in self.models.by_name.items()},
        }
        await send_json(send, found, 503 if stopping else 200)

    async def show_metrics(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_bytes(send, self.metrics.text(), TYPE)

    async def show_openapi(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_json(send, self.openapi)

    async def page(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A file of the page, by a name that the code knows: none comes from a request."""
        name = scope["path_params"].get("name", "index.html")
        if name not in PAGE_FILES:
            raise ApiError(404, "there is no such page", code="not_found")
        kind = _KINDS[Path(name).suffix]
        await send_bytes(send, await asyncio.to_thread((PAGE / name).read_bytes), kind, headers={"cache-control": "no-cache"})


PAGE_FILES = tuple(sorted(path.name for path in PAGE.iterdir() if path.suffix in _KINDS))


class _App:
    """An ASGI application of an `async` function; what it raises is told in OpenAI's form."""

    def __init__(self, handle: Callable[[Scope, Receive, Send], Any]) -> None:
        self._handle = handle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._handle(scope, receive, send)


async def _begun(events: AsyncIterator[Event]) -> AsyncIterator[Event]:
    """The same events once the first is there, so that what goes wrong before it has a status of its own. Raises ApiError."""
    first = await anext(events)

    async def all_of_them() -> AsyncIterator[Event]:
        yield first
        async for event in events:
            yield event

    return all_of_them()


async def _body(scope: Scope, receive: Receive) -> bytes:
    """The whole body. Raises ApiError, Gone."""
    kind = next((value for name, value in scope["headers"] if name.lower() == b"content-type"), b"")
    if kind.split(b";")[0].strip().lower() != b"application/json":
        raise ApiError(415, "send JSON, as Content-Type: application/json", code="not_json")
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    raise ApiError(404, "there is no such page; /openapi.json lists what there is", code="not_found")


def create_app(bundles: Sequence[str | os.PathLike[str]], options: ServeOptions | None = None) -> Guard:
    """The whole server over bundles, given as folders or names of shipped ones.

    Raises BundleError, UsageError.
    """
    options = options or ServeOptions()
    return application(Server([bundle_path(bundle) for bundle in bundles], options))


def application(server: Server) -> Guard:
    """The routes of a server."""

    def generation(endpoint: Endpoint) -> _App:
        return _App(lambda *three: server.generate(endpoint, *three))

    plain = {
        "/v1/models": server.list_models,
        "/v1/models/{name}": server.one_model,
        "/health": server.health,
        "/metrics": server.show_metrics,
        "/openapi.json": server.show_openapi,
        "/": server.page,
        "/page/{name}": server.page,
    }
    routes = [Route(path, _only("POST", generation(endpoint))) for path, endpoint in ENDPOINTS.items()]
    routes += [Route(path, _only("GET", _App(handle))) for path, handle in plain.items()]

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        server.warming = asyncio.create_task(server.warm())
        yield
        await server.stop(server.options.grace_s)
        await asyncio.wait({server.warming})
        await server.models.close()

    router = Router(routes, redirect_slashes=False, default=_not_found, lifespan=lifespan)
    named = {*plain, *ENDPOINTS}
    return Guard(router, server.options, server.metrics, lambda path: _name(path, named), lifespan)


def _name(path: str, named: set[str]) -> str:
    """A path as it is counted: none that a client made up."""
    if path in named:
        return path
    folder = path.rpartition("/")[0]
    return f"{folder}/{{name}}" if f"{folder}/{{name}}" in named else "other"


def _only(method: str, app: _App) -> _App:
    """Refuses other methods."""

    async def checked(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] not in (method, "HEAD" if method == "GET" else method):
            raise ApiError(405, f"only {method} is allowed here", code="method_not_allowed")
        await app(scope, receive, send)

    return _App(checked)
