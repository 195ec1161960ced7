"""Other programs beside a bundle, in one run: transformers and llama.cpp on the same dims, random weights, in turns."""
