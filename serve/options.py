"""How a server runs: addresses, limits and times, validated where they are made."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

from dgemma.core.engines import ENGINES
from dgemma.core.errors import Param, UsageError
from dgemma.core.scalars import is_int

MOST_HEADER_BYTES = 32_000  # of a request
_ORIGIN = re.compile(r"https?://[^/\s*]+")


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """One server.

    Args:
        host: address that it listens on. Any but a loopback address needs an API key.
        port: 0 takes a free one.
        api_key: what requests must give as `Authorization: Bearer KEY`.
        allow_hosts: names that clients may call the server by, beside localhost and IP addresses.
        cors_origins: web sites whose pages may use the API, such as https://example.org.
        engine: as of `Session.load`.
        threads: as of `Session.load`.
        max_requests: at work or waiting, at most; others are told to come again.
        cache_bytes: keys and values of all conversations, those that rest included.
        memory_bytes: of all loaded bundles together; None: what is free.
        timeout_s: of one request, from its arrival on.
        grace_s: what generations get to finish in when the server is told to stop.
        keep_alive_s: between two signs of life on a stream.
        read_timeout_s: for a request to arrive whole.
        write_timeout_s: for a client to take what was sent.
        max_body_bytes: of a request.
        max_connections: open at once.
        log_prompts: write prompts and answers into the log.
    Raises:
        UsageError.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = None
    allow_hosts: Sequence[str] = ()
    cors_origins: Sequence[str] = ()
    engine: str | None = None
    threads: int | None = None
    max_requests: int = 128
    cache_bytes: int = 1_000_000_000
    memory_bytes: int | None = None
    timeout_s: float = 600
    grace_s: float = 30
    keep_alive_s: float = 10
    read_timeout_s: float = 20
    write_timeout_s: float = 30
    max_body_bytes: int = 4_000_000
    max_connections: int = 512
    log_prompts: bool = False

    def __post_init__(self) -> None:
        if not is_int(self.port, 0, 65535):
            raise UsageError(Param("port"), f" {self.port!r} must be between 0 and 65535")
        if self.api_key is not None and not (8 <= len(self.api_key) <= 512 and self.api_key.isascii() and self._printable()):
            raise UsageError(Param("api_key"), " must have 8 to 512 ASCII characters and no white space")
        if self.api_key is None and not is_loopback(self.host):
            raise UsageError(
                Param("host"),
                f" {self.host} can be reached from other machines; give ",
                Param("api_key"),
                " as well, or use 127.0.0.1",
            )
        if self.engine is not None and self.engine not in ENGINES:
            raise UsageError(Param("engine"), f" {self.engine!r} is unknown; choose one of {', '.join(ENGINES)}")
        if self.threads is not None and not is_int(self.threads, 1, 1024):
            raise UsageError(Param("threads"), f" {self.threads!r} must be between 1 and 1024")
        for name in ("max_requests", "max_connections", "max_body_bytes"):
            if not is_int(getattr(self, name), 1):
                raise UsageError(Param(name), f" {getattr(self, name)!r} must be an integer, 1 or more")
        for name in ("timeout_s", "grace_s", "keep_alive_s", "read_timeout_s", "write_timeout_s", "cache_bytes"):
            if not 0 < getattr(self, name) < 1e15:
                raise UsageError(Param(name), f" {getattr(self, name)!r} must be a positive number")
        if self.memory_bytes is not None and self.memory_bytes <= 0:
            raise UsageError(Param("memory_bytes"), f" {self.memory_bytes!r} must be a positive number")
        for origin in self.cors_origins:
            if not _ORIGIN.fullmatch(origin):
                raise UsageError(Param("cors_origins"), f" {origin!r} must be a scheme and a host, such as https://example.org")

    def _printable(self) -> bool:
        return self.api_key is not None and all(33 <= ord(character) <= 126 for character in self.api_key)


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
