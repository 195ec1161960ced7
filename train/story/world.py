"""The words that the world of the stories is made of; every one of them is one token of the checkpoint's vocabulary."""

from __future__ import annotations

HEROES = ("Emma", "Leo", "Mia", "Paul")
OTHERS = (("Anna", "Ben", "Lena", "Tom"), ("Hugo", "Nora", "Otto", "Zoe"), ("Finn", "Ivy", "Max", "Rosa"))  # met first, then
SHE = ("Anna", "Emma", "Ivy", "Lena", "Mia", "Nora", "Rosa", "Zoe")
TIMES = ("Once", "Today", "Yesterday", "Recently")
ROLES = ("baker", "doctor", "farmer", "miner", "painter", "sailor", "singer", "teacher")
INSIDE = ("castle", "library", "mill", "station", "tower")
OUTSIDE = ("bridge", "forest", "garden", "harbour", "market")
PLACES = INSIDE + OUTSIDE
THINGS = ("bell", "book", "coin", "cup", "drum", "key", "kite", "lamp", "map", "ring", "rope", "shell")
LOOKS = ("black", "blue", "golden", "green", "red", "silver", "white", "yellow")
GETS = ("bought", "found", "made", "won")
MANNERS = ("gladly", "quickly", "quietly", "slowly")
GOES = ("ran", "rode", "walked", "went")
GIVES = ("gave", "lent", "sold")  # the other one has it then
SHOWS = ("showed",)  # nothing changes hands
PASSES = GIVES + SHOWS
CRIES = ("danced", "laughed", "sang", "smiled")
WAYS = ("again", "loudly", "softly", "twice")
FEELINGS = ("brave", "calm", "glad", "happy", "proud", "strong")


def elsewhere(place: str) -> tuple[str, ...]:
    """Where one can go from a place: outside from inside, and the other way round."""
    return OUTSIDE if place in INSIDE else INSIDE


def pronoun(name: str) -> str:
    """`she` or `he`."""
    return "she" if name in SHE else "he"
