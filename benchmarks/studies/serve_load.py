"""`dgemma serve` under load: clients with short and long questions, half of whose connections break at random.

    python -m dgemma.benchmarks.studies.serve_load [--seconds S] [--clients N] [--out FILE]

Every answer is compared with that of a session alone. Three parts: one client beside a session, for what the server costs;
clients that pause, so that the engine has a rest now and then; clients that do not, so that all of them wait at all times.
Meanwhile, bodies that make no sense are sent as well. Memory is that of the server's process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from openai import OpenAI

from dgemma.benchmarks.report import check_out, one_line_errors, write_json
from dgemma.benchmarks.studies.two_commands import ROOT
from dgemma.core import machine
from dgemma.runtime.session import Session

SHORT = ("Reverse the word table.", "Write 5400 in words.", "19 plus 54?", "Put 15 99 76 26 52 in order.")
LONG = (
    "Write to Jonas Maria Felix Leo Tina: picnic, museum, Sunday, 9.",
    "Spell each of ugabemr jizeli edip pidu uaipai hujmu gacic gayezig omvecih mace inyeful.",
)
MOST = {True: 64, False: 256}  # tokens, by whether a question is short
SEEDS = 5
CACHE_GB = 0.02
ROUNDS = 8  # of one client
PATH = "/v1/chat/completions"
NONSENSE = (b"", b"{", b"[]", b'{"model": 5}', b'{"model": "tiny", "messages": "x"}', b"\xff" * 100, b'{"model":"tiny","a":1}')


@dataclass(frozen=True, kw_only=True)
class Ask:
    """A question, and what a session alone answers."""

    short: bool
    prompt: str
    seed: int
    text: str

    def request(self) -> dict[str, Any]:
        messages = [{"role": "user", "content": self.prompt}]
        more = {"stream": True, "stream_options": {"include_usage": True}, "max_tokens": MOST[self.short]}
        return {"model": "tiny", "messages": messages, "seed": self.seed, **more}

    def body(self) -> bytes:
        return json.dumps(self.request()).encode()


@dataclass(kw_only=True)
class Seen:
    """What clients saw."""

    whole: int = 0
    left: int = 0
    wrong: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    turns: dict[bool, list[int]] = field(default_factory=lambda: {True: [], False: []})
    first_s: dict[bool, list[float]] = field(default_factory=lambda: {True: [], False: []})
    nonsense: dict[str, int] = field(default_factory=dict)


def answers(session: Session) -> list[Ask]:
    """Every question with every seed, by a session alone."""
    found = []
    for short, prompts in ((True, SHORT), (False, LONG)):
        for prompt in prompts:
            for seed in range(SEEDS):
                text = session.generate(prompt, seed=seed, max_new_tokens=MOST[short]).text
                found.append(Ask(short=short, prompt=prompt, seed=seed, text=text))
    return found


async def post(port: int, body: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A request on a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST {PATH} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n"
    writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    await writer.drain()
    return reader, writer


async def ask(port: int, one: Ask, seen: Seen, leave_after: float | None) -> None:
    """One question; the answer is checked, or the connection broken after so many seconds."""
    started = time.perf_counter()
    reader, writer = await post(port, one.body())
    text, usage, status, first = "", None, "", None
    try:
        async with asyncio.timeout(leave_after):
            status = (await reader.readline()).decode().split(" ")[1]
            async for line in reader:
                if not line.startswith(b"data: {"):
                    continue
                chunk = json.loads(line[6:])
                if "error" in chunk:
                    seen.errors.append(chunk["error"]["code"])
                    return
                usage = chunk.get("usage") or usage
                new = "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])
                first = first or (time.perf_counter() - started if new else None)
                text += new
    except TimeoutError:
        seen.left += 1
        return
    finally:
        writer.close()
    if status != "200" or usage is None:
        seen.errors.append(status)
        return
    seen.whole += 1
    if text != one.text:
        seen.wrong.append(f"{one.prompt} seed {one.seed}: {text!r}, not {one.text!r}")
    seen.turns[one.short].append(usage["waited_turns"])
    if first is not None:
        seen.first_s[one.short].append(first)


async def client(
    port: int, asks: Sequence[Ask], seen: Seen, until: float, pause_s: float, patience_s: float, chance: random.Random
) -> None:
    """Questions until the time is up; every other one is given up before `patience_s`, or answered by then."""
    await asyncio.sleep(chance.uniform(0, min(pause_s, until - time.monotonic())))
    while time.monotonic() < until:
        one = chance.choice([each for each in asks if each.short == (chance.random() < 0.75)])
        leaves = chance.uniform(0, patience_s) if chance.random() < 0.5 else None
        try:
            await ask(port, one, seen, leaves)
        except OSError as error:
            seen.errors.append(type(error).__name__)
        if pause_s:
            await asyncio.sleep(max(0.0, min(chance.expovariate(1 / pause_s), until - time.monotonic())))


async def nonsense(port: int, seen: Seen, until: float, chance: random.Random) -> None:
    """Bodies that make no sense, ten a second."""
    while time.monotonic() < until:
        reader, writer = await post(port, chance.choice(NONSENSE))
        status = (await reader.readline()).decode().split(" ")[1]
        seen.nonsense[status] = seen.nonsense.get(status, 0) + 1
        writer.close()
        await asyncio.sleep(0.1)


def metric(port: int, name: str) -> float:
    """A value that the server counts."""
    with urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(f"{name} ")))


def resident(port: int) -> int:
    return int(metric(port, "process_resident_memory_bytes"))


async def watch(port: int, memory: list[int], until: float) -> None:
    while time.monotonic() < until:
        memory.append(await asyncio.to_thread(resident, port))
        await asyncio.sleep(0.5)


async def load(
    port: int, asks: Sequence[Ask], clients: int, seconds: float, pause_s: float, patience_s: float
) -> dict[str, Any]:
    """Figures of so many clients."""
    seen, memory, until = Seen(), list[int](), time.monotonic() + seconds
    work = [client(port, asks, seen, until, pause_s, patience_s, random.Random(number)) for number in range(clients)]
    started = time.monotonic()
    await asyncio.gather(*work, nonsense(port, seen, until, random.Random(-1)), watch(port, memory, until))
    quarter = max(1, len(memory) // 4)
    early, late = statistics.median(memory[quarter : 2 * quarter] or memory), statistics.median(memory[-quarter:])
    return {
        "clients": clients,
        "pause_s": round(pause_s, 2),
        "seconds": round(time.monotonic() - started, 1),
        "whole": seen.whole,
        "left": seen.left,
        "wrong": seen.wrong[:5],
        "errors": seen.errors[:20],
        "nonsense": seen.nonsense,
        "wait_turns": {name: spread(seen.turns[short]) for name, short in (("short", True), ("long", False))},
        "first_text_s": {name: spread(seen.first_s[short]) for name, short in (("short", True), ("long", False))},
        "resident_bytes": {"second_quarter": early, "last_quarter": late, "growth": round(late / early - 1, 4)},
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {"n": 0}
    ordered = sorted(values)
    at = {f"p{share}": ordered[min(len(ordered) - 1, round(share / 100 * (len(ordered) - 1)))] for share in (50, 90, 99)}
    return {"n": len(ordered), **{name: round(value, 3) for name, value in at.items()}, "most": round(ordered[-1], 3)}


def over_http(connection: HTTPConnection, one: Ask) -> tuple[str, float]:
    """An answer's text and the seconds of its generation, as the server says; the connection stays open."""
    connection.request("POST", PATH, one.body(), {"content-type": "application/json"})
    with connection.getresponse() as answer:
        chunks = [json.loads(line[6:]) for line in answer if line.startswith(b"data: {")]
    text = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
    return text, chunks[-1]["usage"]["generation_s"]


def over_new_connection(port: int, one: Ask) -> tuple[str, float]:
    with closing(HTTPConnection("127.0.0.1", port)) as connection:
        return over_http(connection, one)


def by_openai(client: OpenAI, one: Ask) -> tuple[str, float]:
    chunks = list(client.chat.completions.create(**one.request()))
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    return text, chunks[-1].usage.generation_s


def alone(port: int, session: Session, asks: Sequence[Ask], rounds: int) -> dict[str, Any]:
    """One client beside a session: what the server takes on top of a generation. For every question, the session and three
    kinds of client answer in an order that is drawn anew; a time ends with the last byte of the answer. Left out are questions
    of more than a chunk, of which the server keeps the beginning."""
    asks = [one for one in asks if len(session.prompt_ids(one.prompt)) <= session.manifest.chunk]
    library = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
    ways: dict[str, Callable[[Ask], tuple[str, float]]] = {
        "session": lambda one: (session.generate(one.prompt, seed=one.seed, max_new_tokens=MOST[one.short]).text, 0.0),
        "kept": partial(over_http, HTTPConnection("127.0.0.1", port)),
        "new": partial(over_new_connection, port),
        "openai": partial(by_openai, library),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    generations: dict[str, list[float]] = {name: [] for name in ways}
    wrong, chance = list[str](), random.Random(0)
    for one in (asks[0], *list(asks) * rounds):  # the first opens connections, and is not counted
        for name in chance.sample(list(ways), len(ways)):
            clock = time.perf_counter()
            text, generation_s = ways[name](one)
            times[name].append(time.perf_counter() - clock)
            generations[name].append(generation_s)
            if text != one.text:
                wrong.append(f"{name}, {one.prompt} seed {one.seed}: {text!r}, not {one.text!r}")
    own, short = times.pop("session")[1:], [one.short for one in asks] * rounds
    return {
        "answers": len(own),
        "wrong": wrong[:5],
        "session": {"median_s": round(statistics.median(own), 5), "mean_s": round(statistics.mean(own), 5)},
        "clients": {
            name: {**beside(own, found[1:], short), "mean_generation_s": round(statistics.mean(generations[name][1:]), 5)}
            for name, found in times.items()
        },
    }


def beside(own: Sequence[float], served: Sequence[float], short: Sequence[bool]) -> dict[str, Any]:
    """Times through the server, and how they compare with the session's, pair by pair; `short`: by which questions are."""
    ratios = [a / b for a, b in zip(served, own, strict=True)]

    def quartiles(values: Sequence[float], kinds: Sequence[bool] = (True, False)) -> list[float]:
        some = [value for value, kind in zip(values, short, strict=True) if kind in kinds]
        return [round(one, 5) for one in statistics.quantiles(some, n=4)]

    return {
        "median_s": round(statistics.median(served), 5),
        "mean_s": round(statistics.mean(served), 5),
        "added_s": quartiles([a - b for a, b in zip(served, own, strict=True)]),
        "ratio": quartiles(ratios),
        "short": quartiles(ratios, (True,)),
        "long": quartiles(ratios, (False,)),
        "ratio_of_sums": round(sum(served) / sum(own), 4),
    }


class Process:
    """`dgemma serve tiny`, and how long it took to its first text."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "dgemma", "serve", "tiny", "--port", "0", "--cache-memory", str(CACHE_GB)]
        started = time.perf_counter()
        self._process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        assert self._process.stderr is not None
        line = self._process.stderr.readline()
        self.port = int(line.split("serving at ")[1].split()[0].rsplit(":", 1)[1])
        self.listening_s = time.perf_counter() - started
        seen = Seen()
        asyncio.run(ask(self.port, Ask(short=True, prompt=SHORT[0], seed=0, text="elbat"), seen, None))
        assert seen.whole and not seen.wrong, (seen.errors, seen.wrong)
        self.first_text_s = time.perf_counter() - started
        self._drain = subprocess.Popen(["cat"], stdin=self._process.stderr, stdout=subprocess.DEVNULL)

    def stop(self) -> int:
        self._process.terminate()
        status = self._process.wait(60)
        self._drain.wait(10)
        return status


def measure(seconds: float, clients: int) -> dict[str, Any]:
    """One client alone, and `clients` for so many seconds each way; for none, the one alone."""
    process = Process()
    loads: dict[str, Any] = {}
    try:
        with Session.load("tiny") as session:
            asks = answers(session)
            one = alone(process.port, session, asks, ROUNDS)
        if seconds:
            served_s = one["clients"]["kept"]["median_s"]
            busy = statistics.mean(0.75 * served_s if ask.short else served_s for ask in asks)
            paced = asyncio.run(load(process.port, asks, clients, seconds, 2 * clients * busy, 3 * busy))
            full = asyncio.run(load(process.port, asks, clients, seconds, 0.0, clients * busy))
            loads = {"paced": paced, "full": full, "cache_gb": CACHE_GB, "machine": machine.facts()}
    finally:
        status = process.stop()
    start = {"listening_s": round(process.listening_s, 2), "first_text_s": round(process.first_text_s, 2)}
    one = {**one, "machine": machine.facts()}
    return {"benchmark": "serve-load", "start": start, "alone": one, **loads, "exit_status": status}


def run(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="serve_load", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--seconds", type=float, default=60, help="of each load; 0: one client alone, beside loads that --out has"
    )
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(argv)
    check_out(options.out)
    earlier = json.loads(options.out.read_text()) if options.out and options.out.exists() and not options.seconds else {}
    result = {**earlier, **measure(options.seconds, options.clients)}
    if options.out:
        write_json(options.out, result)
    print(json.dumps(result, allow_nan=False))
    loads = [result[part] for part in ("paced", "full") if part in result]
    bad = any(part["wrong"] or part["errors"] for part in loads) or result["exit_status"]
    return 1 if bad else 0


if __name__ == "__main__":
    with one_line_errors():
        sys.exit(run())
