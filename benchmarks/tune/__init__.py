"""`dgemma tune`: the options with which a bundle answers a user's own prompts with the least work."""
