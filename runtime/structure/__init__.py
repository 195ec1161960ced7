"""Answers of a language: its automaton over bytes, the automaton's transitions by tokens, and the likeliest of its answers.

Nothing here knows of engines or sessions.
"""
