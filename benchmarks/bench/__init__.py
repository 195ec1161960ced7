"""`dgemma bench`: what a bundle costs on this machine, against the least that it could cost. Nothing here imports torch."""
