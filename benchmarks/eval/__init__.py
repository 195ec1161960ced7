"""`dgemma eval`: task files as they are distributed, answered by generation, scored, with what the answers cost.

`formats` reads files to items, `answers` finds an answer in a text, `run` has a bundle answer, `journal` keeps each
answer on disk as it comes, `figures` counts. Nothing here executes text of a file or knows how a model works.
"""
