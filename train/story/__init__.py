"""Short stories and dialogues of a small world, drawn from a grammar whose probabilities are known: data with a truth."""
