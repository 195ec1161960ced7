"""Tables of `dgemma serve` under load, from `serve-load.json`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dgemma.benchmarks.studies.page import Page, Section
from dgemma.benchmarks.studies.tables import header, read

_CLIENTS = {"kept": "connection kept", "new": "a connection for each answer", "openai": "OpenAI's client"}


def alone() -> str:
    """What a server adds to the time of a generation, and its time to the first text."""
    values = read("serve-load.json")
    one, own = values["alone"], values["alone"]["session"]
    clients = [one["clients"][name] for name in _CLIENTS]
    rows = header(f"{one['answers']} answers", "session alone", *_CLIENTS.values())

    def row(name: str, *cells: str) -> None:
        rows.append(f"| {name} | {' | '.join(cells)} |")

    def ms(name: str) -> list[str]:
        return [f"{1000 * part[name]:.1f}" for part in (own, *clients)]

    row("median time, ms", *ms("median_s"))
    row("mean time, ms", *ms("mean_s"))
    row("of which the server generates, ms", "", *(f"{1000 * part['mean_generation_s']:.1f}" for part in clients))
    added = [[1000 * one for one in part["added_s"]] for part in clients]
    row("more than the session, ms: median of pairs (quartiles)", "", *(_span(one, 1) for one in added))
    row("relative to the session: median of pairs (quartiles)", "1", *(_span(part["ratio"], 3) for part in clients))
    row("that of short answers, a canvas each", "1", *(_span(part["short"], 3) for part in clients))
    row("that of long answers, four canvases each", "1", *(_span(part["long"], 3) for part in clients))
    row("relative to the session: sums", "1", *(f"{part['ratio_of_sums']:.3f}" for part in clients))
    start = f"From the command to the first text: {values['start']['first_text_s']:.1f} s."
    return "\n".join([*rows, "", start, "", _machine(one["machine"])])


def load() -> str:
    """Many clients: with pauses, and without."""
    values = read("serve-load.json")
    parts = [values["paced"], values["full"]]
    rows = header("", "clients that pause", "clients that do not")

    def row(name: str, *cells: object) -> None:
        rows.append(f"| {name} | {' | '.join(map(str, cells))} |")

    row("clients", *(part["clients"] for part in parts))
    row("duration, s", *(f"{part['seconds']:.0f}" for part in parts))
    row("answers read to the end", *(part["whole"] for part in parts))
    row("of which different from the session's answer", *(len(part["wrong"]) for part in parts))
    row("connections broken", *(part["left"] for part in parts))
    row("errors", *(len(part["errors"]) for part in parts))
    row("malformed requests, all answered with status 400", *(sum(part["nonsense"].values()) for part in parts))
    for kind in ("short", "long"):
        waits = [part["wait_turns"][kind] for part in parts]
        row(
            f"turns of other clients before a {kind} answer began, median / p99",
            *(f"{one['p50']:.0f} / {one['p99']:.0f}" for one in waits),
        )
        first = [part["first_text_s"][kind] for part in parts]
        row(
            f"time to the first text of a {kind} answer, median / p99, s",
            *(f"{one['p50']:.2f} / {one['p99']:.2f}" for one in first),
        )
    memory = [part["resident_bytes"] for part in parts]
    row(
        "resident memory in the second / last quarter, MB",
        *(f"{m['second_quarter'] / 1e6:.0f} / {m['last_quarter'] / 1e6:.0f}" for m in memory),
    )
    return "\n".join([*rows, "", _machine(values["machine"])])


def _span(quartiles: Sequence[float], places: int) -> str:
    low, middle, high = quartiles
    return f"{middle:.{places}f} ({low:.{places}f} to {high:.{places}f})"


def _machine(facts: dict[str, Any]) -> str:
    """Where and when, and how busy: the programs measured are part of the load."""
    return (
        f"{facts['cpu']}, {facts['cores']} cores, {facts['int8']}; load average {facts['load_average']:.1f} at the end; "
        f"{facts['date'][:10]}."
    )


PAGE = Page(
    title="Serving many clients",
    intro="""
`dgemma serve tiny` with clients that ask short and long questions at random; every other connection breaks at a random time.
Each answer that was read to the end is compared with the answer of a session without a server, with the same seed.""",
    sections=(
        Section(
            heading="One client",
            before="""
Each question is asked four times, in an order that is drawn anew: of a session in the client's own process, and through the
server with Python's `http.client` on a connection that is kept, with a new connection, and with OpenAI's client for Python. All
answers are streams, and a time ends with the answer's last byte. Other programs were paused meanwhile.

The goal, at most 5 % more time than without a server on a connection that is kept, is missed: an exchange takes two to three
milliseconds, whatever the answer's length, most of it processor time of Python in the server and the client. The long answers,
a fifth of all, are too few to tell whether they are above the goal or below.""",
            table=alone,
        ),
        Section(
            heading="Many clients",
            before="""
All clients share one engine, which works on one canvas of one client at a time: a turn. Clients that pause leave the engine
idle now and then. Clients that do not pause ask again at once, so all of them are always waiting, and a new question waits for
the first turns of all the others.""",
            table=load,
        ),
    ),
)
