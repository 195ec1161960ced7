"""Which pieces of a vocabulary look like markers, where its tokenizer does not say. Export and runtime must agree."""

from __future__ import annotations


def looks_special(piece: str) -> bool:
    """In angle brackets, and no byte such as <0x0A>."""
    return len(piece) > 2 and piece[0] == "<" and piece[-1] == ">" and not piece.startswith("<0x")
