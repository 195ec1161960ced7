"""The words that the world of the stories is made of; every one of them is one token of the checkpoint's vocabulary."""

from __future__ import annotations

SHE = ("Anna", "Emma", "Ivy", "Lena", "Mia", "Nora", "Rosa", "Zoe")
HE = ("Ben", "Finn", "Hugo", "Leo", "Max", "Otto", "Paul", "Tom")
NAMES = SHE + HE
TIMES = ("Once", "Today", "Yesterday", "Recently")
ROLES = ("baker", "doctor", "farmer", "miner", "painter", "sailor", "singer", "teacher")
PLACES = ("bridge", "castle", "forest", "garden", "harbour", "library", "market", "mill", "station", "tower")
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


def pronoun(name: str) -> str:
    """`she` or `he`."""
    return "she" if name in SHE else "he"
