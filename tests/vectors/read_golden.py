"""Reads trajectories that `dgemma verify --write-golden` wrote, and checks what can be checked without a model. numpy only."""

import json
import sys

import numpy as np


def threefry(key, high, low):  # counters of any shape → two words each
    ks, a, b = (key[0], key[1], key[0] ^ key[1] ^ np.uint32(0x1BD11BDA)), high + key[0], low + key[1]
    for group in range(5):
        for turn in ((13, 15, 26, 6), (17, 29, 16, 24))[group % 2]:
            a, b = a + b, (b << np.uint32(turn)) | (b >> np.uint32(32 - turn))
            b = b ^ a
        a, b = a + ks[(group + 1) % 3], b + ks[(group + 2) % 3] + np.uint32(group + 1)
    return a, b


def tokens_of(seed, canvas, stream, shape, vocab):  # ids from the noise: stream 0 [N] is the canvas, stream i [2, N] step i's
    key = np.array([seed >> 32, seed & 0xFFFFFFFF], np.uint32)
    for data in (canvas, stream):
        key = np.concatenate(threefry(key, np.zeros(1, np.uint32), np.array([data], np.uint32)))
    a, b = threefry(key, np.zeros(shape, np.uint32), np.arange(np.prod(shape), dtype=np.uint32).reshape(shape))
    return ((a ^ b).astype(np.uint64) * np.uint64(vocab) >> np.uint64(32)).astype(np.int64)


def check(run, made, seed):  # raises AssertionError where a step breaks the contract
    n, vocab, sampler = made["canvas_length"], made["vocab_size"], made["sampler"]
    for i, (canvas, left) in enumerate(zip(run["canvas_index"].tolist(), run["step"].tolist(), strict=True)):
        before = tokens_of(seed, canvas, 0, (n,), vocab) if left == sampler["steps"] else run["canvas_out"][i - 1]
        assert np.array_equal(run["canvas_in"][i], before), f"row {i}: canvas_in"
        order = np.argsort(run["entropy"][i], kind="stable")  # ascending, ties by position; sums in float64
        own = run["entropy"][i][order].astype(np.float64)
        assert np.array_equal(run["accepted"][i][order], np.cumsum(own) - own <= sampler["entropy_bound"]), f"row {i}: accepted"
        fresh = tokens_of(seed, canvas, sampler["steps"] - left + 1, (2, n), vocab)[1]
        assert (run["accepted"][i] | (run["canvas_out"][i] == fresh)).all(), f"row {i}: renoised"


def read(path):  # what made it; and per run its seed and its arrays by name
    with np.load(path) as file:
        numbers = range(len(file["seeds"]))
        parts = [{k.split("_", 2)[2]: file[k] for k in file if k.startswith(f"reference_{i}_")} for i in numbers]
        return json.loads(file["made"].tobytes()), list(zip(file["seeds"].tolist(), parts, strict=True))


if __name__ == "__main__":
    made, runs = read(sys.argv[1])
    for seed, run in runs:
        check(run, made, seed)
        print(f"seed {seed}: {len(run['step'])} steps, {len(run['tokens'])} tokens, follows the contract")
