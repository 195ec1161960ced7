"""Tables of `dgemma serve` under load, from `serve-load.json`."""

from __future__ import annotations

from dgemma.benchmarks.studies.page import Page, Section
from dgemma.benchmarks.studies.tables import header, read


def alone() -> str:
    """What a server takes on top of a generation, and until its first text."""
    values = read("serve-load.json")
    one, start, facts = values["alone"], values["start"], values["machine"]
    return "\n".join(
        [
            *header("one client beside a session alone", ""),
            f"| answers compared | {one['pairs']} |",
            f"| median seconds, served / session alone | {one['served_s']:.3f} / {one['session_s']:.3f} |",
            f"| served relative to session alone, median of pairs / all together | {one['median_of_ratios']:.3f} / "
            f"{one['ratio_of_sums']:.3f} |",
            f"| seconds from the command to its first text | {start['first_text_s']:.1f} |",
            "",
            f"{facts['cpu']}, {facts['cores']} cores, {facts['int8']}; load average {facts['load_average']:.1f}: other "
            f"programs were at work; {facts['date'][:10]}.",
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
    row("seconds", *(f"{part['seconds']:.0f}" for part in parts))
    row("answers read to the end", *(part["whole"] for part in parts))
    row("of these, other than a session's alone", *(len(part["wrong"]) for part in parts))
    row("connections broken", *(part["left"] for part in parts))
    row("errors", *(len(part["errors"]) for part in parts))
    row("bodies without sense, all answered with status 400", *(sum(part["nonsense"].values()) for part in parts))
    for kind in ("short", "long"):
        waits = [part["wait_turns"][kind] for part in parts]
        row(
            f"turns of others before a {kind} answer began, median / p99",
            *(f"{one['p50']:.0f} / {one['p99']:.0f}" for one in waits),
        )
        first = [part["first_text_s"][kind] for part in parts]
        row(
            f"seconds to the first text of a {kind} answer, median / p99",
            *(f"{one['p50']:.2f} / {one['p99']:.2f}" for one in first),
        )
    memory = [part["resident_bytes"] for part in parts]
    row(
        "resident memory, MB, second / last quarter",
        *(f"{m['second_quarter'] / 1e6:.0f} / {m['last_quarter'] / 1e6:.0f}" for m in memory),
    )
    return "\n".join(rows)


PAGE = Page(
    title="Serving many clients",
    intro="""
`dgemma serve tiny` with clients that ask short and long questions at random; every other connection breaks at a random time.
Each answer that was read to the end is compared with that of a session alone with the same seed.""",
    sections=(
        Section(heading="One client", table=alone),
        Section(
            heading="Many clients",
            before="""
A turn is a canvas. Clients that pause leave the engine a rest; those that do not ask again at once, so all of them always wait,
and a new question waits for the first turns of all the others.""",
            table=load,
        ),
    ),
)
