"""Studies: what makes the published figures in `benchmarks/results`. Not in the wheel; nothing of the product imports them."""
