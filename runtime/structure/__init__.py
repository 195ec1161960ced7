"""Answers of a language: an automaton over bytes, its transitions by tokens, and the likeliest answer that it allows.

Nothing here knows of engines or sessions.
"""
