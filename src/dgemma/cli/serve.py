"""`dgemma serve`: OpenAI's API over bundles on this machine, and a page that shows the canvas."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from dgemma.cli.options import EngineOption, ThreadsOption
from dgemma.cli.terminal import abandon
from dgemma.core.errors import UsageError
from dgemma.core.install import pip_install
from dgemma.core.shipped import bundle_path

KEY = "DGEMMA_API_KEY"


def run(
    bundles: Annotated[
        list[str],
        typer.Argument(
            metavar="BUNDLE…",
            help="Folders written by `dgemma export`, or tiny, the bundle that ships with dgemma. Requests name them without "
            ".dgemma.",
            show_default=False,
        ),
    ],
    host: Annotated[
        str, typer.Option("--host", metavar="H", help="Address to listen on. Addresses other than loopback need --api-key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", metavar="P", help="Port; 0 picks a free one.")] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(
            "--api-key",
            metavar="K",
            help=f"Key that requests must give. The environment variable {KEY} also sets it, and process lists do not show it.",
            show_default=False,
        ),
    ] = None,
    engine: EngineOption = None,
    threads: ThreadsOption = None,
    max_requests: Annotated[
        int,
        typer.Option("--max-requests", metavar="N", help="Most requests running or waiting; others are told to retry later."),
    ] = 128,
    cache_memory: Annotated[
        float,
        typer.Option("--cache-memory", metavar="GB", help="Memory for conversations, both running and kept for later turns."),
    ] = 1.0,
    memory: Annotated[
        float | None,
        typer.Option(
            "--memory", metavar="GB", help="Memory for all loaded bundles; when full, the least recently used one is unloaded."
        ),
    ] = None,
    timeout: Annotated[float, typer.Option("--timeout", metavar="S", help="Seconds that one request may take.")] = 600.0,
    allow_host: Annotated[
        list[str] | None,
        typer.Option("--allow-host", metavar="NAME", help="A host name that clients may use for this server. May be repeated."),
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option("--cors-origin", metavar="ORIGIN", help="A website whose pages may use the API. May be repeated."),
    ] = None,
    log_prompts: Annotated[bool, typer.Option("--log-prompts", help="Write prompts and answers to the log.")] = False,
) -> None:
    try:
        from dgemma.serve.options import ServeOptions
        from dgemma.serve.server import serve
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("dgemma"):
            raise
        raise UsageError(f"`dgemma serve` needs {error.name}, which is not installed; {pip_install('serve')}") from None
    for option, gigabytes in (("--cache-memory", cache_memory), ("--memory", memory)):
        if gigabytes is not None and not 0 < gigabytes < 1e6:
            raise UsageError(f"{option} {gigabytes:g} must be a positive number of GB")
    options = ServeOptions(
        host=host,
        port=port,
        api_key=api_key if api_key is not None else os.environ.get(KEY),
        allow_hosts=tuple(allow_host or ()),
        cors_origins=tuple(cors_origin or ()),
        engine=engine,
        threads=threads,
        max_requests=max_requests,
        cache_bytes=round(cache_memory * 1e9),
        memory_bytes=None if memory is None else round(memory * 1e9),
        timeout_s=timeout,
        log_prompts=log_prompts,
    )
    folders: list[Path] = [bundle_path(bundle) for bundle in bundles]
    serve(folders, options, _ready)


def _ready(address: str) -> None:
    """Say where it serves; a stderr on a full disk ends nothing."""
    try:
        print(f"serving at {address} (Ctrl-C stops)", file=sys.stderr, flush=True)
    except OSError:
        abandon("stderr")
