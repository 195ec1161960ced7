"""The bundles of a server, by name: loaded when they are asked for, closed where another one needs their memory."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dgemma.core.errors import EngineError, UsageError
from dgemma.core.generate_options import AUTOREGRESSIVE, DIFFUSION
from dgemma.core.manifest import Manifest, read_manifest
from dgemma.core.shipped import knows_single_turns_alone
from dgemma.runtime.guide import GUIDED
from dgemma.runtime.loops import ACTIVE
from dgemma.runtime.memory import need
from dgemma.runtime.session import Session
from dgemma.runtime.turns import Turns
from dgemma.serve.conversations import Pool
from dgemma.serve.errors import ApiError, from_error, overloaded
from dgemma.serve.options import ServeOptions

PATIENCE_S = 1.0  # for which a bundle waits for another one to become idle
log = logging.getLogger("dgemma.serve")


@dataclass(eq=False, kw_only=True)
class Model:
    """One bundle; `session` while it is loaded, `users`: requests that have it."""

    name: str
    path: Path
    manifest: Manifest
    digest: str
    created: int
    session: Session | None = None
    users: int = 0
    used: float = 0.0
    size: int = 0
    loading: asyncio.Task[None] | None = None

    @property
    def loaded(self) -> Session:
        assert self.session is not None, "whoever has the model has loaded it"
        return self.session

    @property
    def single_turns(self) -> bool:
        return knows_single_turns_alone(self.manifest.provenance)

    def facts(self) -> dict[str, Any]:
        """What a client may want to know of it."""
        manifest, roles = self.manifest, self.manifest.chat.roles if self.manifest.chat else None
        graphs = next(iter(manifest.graphs.values()))
        return {
            "loaded": self.session is not None,
            "engine": self.session.engine if self.session else None,
            "recipe": manifest.quantization.get("recipe"),
            "parameters": manifest.quantization.get("parameters"),
            "context": manifest.context,
            "canvas_length": manifest.canvas_length,
            "steps": manifest.steps,
            "vocabulary": manifest.model.vocab_size,
            "chat": manifest.chat is not None,
            "system": bool(roles and any(key.split("+")[0] in ("system", "developer") for key in roles.openings)),
            "tools": bool(roles and roles.tools),
            "thinking": bool(roles and any("think" in key.split("+") for key in roles.openings)),
            "single_turns": self.single_turns,
            "decoders": [DIFFUSION, *([AUTOREGRESSIVE] if "decode" in graphs else [])],
            "less_work": ACTIVE in graphs,
            "guidance": GUIDED in graphs,
        }

    def to_dict(self) -> dict[str, Any]:
        """As `/v1/models` lists it."""
        return {"id": self.name, "object": "model", "created": self.created, "owned_by": "dgemma", "dgemma": self.facts()}


class Models:
    """All bundles of a server; their generations share the turns."""

    def __init__(self, paths: Sequence[Path], options: ServeOptions, pool: Pool) -> None:
        if not paths:
            raise UsageError("no bundle is given; name at least one, such as tiny")
        self._options, self._pool, self.turns = options, pool, Turns()
        self.by_name: dict[str, Model] = {}
        for path in paths:
            name = path.name.removesuffix(".dgemma")
            if name in self.by_name:
                raise UsageError(f"{path}: another bundle is called {name}, too; rename one of the folders")
            manifest, digest = read_manifest(path, check_files=False)
            created = int((path / "manifest.json").stat().st_mtime)
            self.by_name[name] = Model(name=name, path=path, manifest=manifest, digest=digest, created=created)

    def find(self, name: str) -> Model:
        """Raises ApiError 404."""
        if name not in self.by_name:
            known = ", ".join(self.by_name)
            raise ApiError(404, f"there is no model {name[:80]!r}; choose from {known}", param="model", code="model_not_found")
        return self.by_name[name]

    @asynccontextmanager
    async def use(self, name: str) -> AsyncIterator[Model]:
        """A loaded model, which stays loaded meanwhile. Raises ApiError."""
        model = self.find(name)
        model.users += 1
        try:
            while model.session is None:
                if model.loading is None:
                    model.loading = asyncio.create_task(self._load(model))
                await asyncio.shield(model.loading)  # a client that leaves does not end it: others may wait as well
            yield model
        finally:
            model.users -= 1
            model.used = time.monotonic()

    async def close(self) -> None:
        for model in self.by_name.values():
            if model.session is not None:
                await self._close(model)

    async def _load(self, model: Model) -> None:
        try:
            await self._opened(model)
        finally:
            model.loading = None

    async def _opened(self, model: Model) -> None:
        started = time.perf_counter()
        while True:
            await self._make_room(model)
            try:
                model.session = await asyncio.to_thread(self._open, model)
            except EngineError as error:  # what is free has changed meanwhile, perhaps
                if not await self._evict(model):
                    log.error("model %s cannot be loaded: %s", model.name, error)
                    raise overloaded(f"model {model.name} cannot be loaded now; the server's log says why", 30) from None
            except Exception as error:
                log.error("model %s cannot be loaded: %s", model.name, error)
                raise from_error(error) from None
            else:
                break
        log.info("model %s is loaded in %.2f s", model.name, time.perf_counter() - started)

    def _open(self, model: Model) -> Session:
        options = self._options
        session = Session.load(model.path, engine=options.engine, threads=options.threads, turns=self.turns)
        model.size = need(session.manifest, session.engine).total
        return session

    async def _make_room(self, model: Model) -> None:
        """Close others while all together would take more than is allowed. Raises ApiError where that is not enough.

        A model whose answer has just been sent may still be in use for a moment, so this waits a little for one to become idle.
        """
        limit = self._options.memory_bytes
        if limit is None:
            return
        engine = self._options.engine or next(iter(model.manifest.graphs))
        wanted = need(model.manifest, engine).total if engine in model.manifest.graphs else 0
        deadline = time.monotonic() + PATIENCE_S
        while sum(one.size for one in self.by_name.values() if one.session is not None) + wanted > limit:
            if await self._evict(model):
                continue
            if all(one.session is None for one in self.by_name.values()):
                break  # alone it may have what there is; what is free is checked when it is loaded
            if time.monotonic() >= deadline:
                raise overloaded(f"other models are in use, and {model.name} does not fit beside them; try again later", 5)
            await asyncio.sleep(PATIENCE_S / 50)

    async def _evict(self, wanted: Model) -> bool:
        """Close the model that was used longest ago, if any is idle."""
        idle = [one for one in self.by_name.values() if one.session is not None and not one.users and one is not wanted]
        if not idle:
            return False
        await self._close(min(idle, key=lambda one: one.used))
        return True

    async def _close(self, model: Model) -> None:
        session, model.session = model.session, None
        self._pool.forget(model.name)
        if session is not None:
            await asyncio.to_thread(session.close)
        log.info("model %s is closed", model.name)
