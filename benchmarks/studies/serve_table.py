"""Tables of `dgemma serve` under load, from `serve-load.json`."""

from __future__ import annotations

from typing import Any

from dgemma.benchmarks.studies.page import Page, Section
from dgemma.benchmarks.studies.tables import header, read


def alone() -> str:
    """What a server adds to the time of a generation, and its time to the first text."""
    values = read("serve-load.json")
    one, start = values["alone"], values["start"]
    parts = {name: 1000 * seconds for name, seconds in one["mean_s"].items()}
    return "\n".join(
        [
            *header("one client, and a session without a server", ""),
            f"| answers compared | {one['pairs']} |",
            f"| median time per answer, server / session, s | {one['served_s']:.3f} / {one['session_s']:.3f} |",
            f"| time, server relative to session: median of pairs / sums | {one['median_of_ratios']:.3f} / "
            f"{one['ratio_of_sums']:.3f} |",
            f"| mean time of the session, ms | {parts['session']:.1f} |",
            f"| mean time through the server, ms: its generation / the rest of the server / client and connection | "
            f"{parts['generation']:.1f} / {parts['server']:.1f} / {parts['client']:.1f} |",
            f"| from the command to the first text, s | {start['first_text_s']:.1f} |",
            "",
            _machine(one["machine"]),
        ]
    )


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
The client opens a connection for each question, and its time ends when the server has closed it. The goal, at most 5 % more
time than without a server, is missed: for answers this short, connection, HTTP and the reading of the prompt take more.""",
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
