"""The native kernel for attention: every variant against a naive twin, in both of its ways, and what it refuses."""

from __future__ import annotations

import native_attention
import numpy as np
import pytest

# rows, slots, heads, kv heads, head dim: few rows and many, one block of keys and several, with and without a prefix
SHAPES = [
    (1, 640, 16, 8, 256),
    (1, 200, 16, 2, 64),
    (1, 0, 4, 4, 16),
    (2, 10, 6, 2, 10),
    (4, 63, 4, 2, 40),
    (8, 128, 2, 2, 24),
    (5, 100, 8, 2, 50),
    (64, 0, 4, 1, 32),
    (70, 65, 4, 2, 72),
    (256, 130, 8, 1, 256),
]


@pytest.mark.parametrize("kernel", native_attention.kernels())
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_softmax_attention(shape: tuple[int, ...], kernel: str) -> None:
    arrays = native_attention.inputs(*shape)
    wanted = native_attention.twin(arrays)
    found = native_attention.run(arrays, kernel=kernel)
    assert np.abs(found - wanted).max() < 2e-5
    arrays[0] = arrays[0] * 30  # scores so far apart that all but a few exponentials are 0
    assert np.abs(native_attention.run(arrays, kernel=kernel) - native_attention.twin(arrays)).max() < 2e-3


@pytest.mark.parametrize("shape", [(1, 200, 16, 2, 64), (70, 65, 4, 2, 72)], ids=str)
def test_one_bias_serves_all_rows_and_the_order_of_tasks_changes_nothing(shape: tuple[int, ...]) -> None:
    arrays = native_attention.inputs(*shape, bias_rows=1)
    found = native_attention.run(arrays)
    assert np.abs(found - native_attention.twin(arrays)).max() < 2e-5
    assert native_attention.run(arrays, backwards=True).tobytes() == found.tobytes()
    spread = [*arrays[:5], np.repeat(arrays[5], shape[0], axis=0)]
    assert native_attention.run(spread).tobytes() == found.tobytes()


@pytest.mark.parametrize("rows", [1, 9])
def test_hidden_keys_are_not_there(rows: int) -> None:
    """What a hidden slot holds changes nothing, and a whole block of hidden keys does not either."""
    arrays = native_attention.inputs(rows, 130, 4, 2, 32)
    arrays[5][:, :100] = -1e30
    found = native_attention.run(arrays)
    for i in (1, 2):
        arrays[i][:100] = 1e3
    assert native_attention.run(arrays).tobytes() == found.tobytes()
    seen = [arrays[0], *(a[100:].copy() for a in arrays[1:3]), *arrays[3:5], arrays[5][:, 100:].copy()]
    assert np.abs(found - native_attention.twin(seen)).max() < 2e-5


@pytest.mark.parametrize("rows", [1, 9])
def test_what_is_no_number_is_seen(rows: int) -> None:
    arrays = native_attention.inputs(rows, 20, 4, 2, 32)
    arrays[0][0, 1, 3] = np.nan
    found = native_attention.run(arrays)
    assert np.isnan(found[0, 1]).all() and not np.isnan(np.delete(found.reshape(-1, 32), 1, axis=0)).any()


def test_what_cannot_be_is_refused() -> None:
    arrays = native_attention.inputs(2, 3, 4, 2, 8)
    with pytest.raises(ValueError, match="rows of the attention"):
        native_attention.run([*arrays[:5], np.zeros((3, 5), np.float32)])
    with pytest.raises(ValueError, match="does not run the kernel"):
        native_attention.run(arrays, kernel="none")
    with pytest.raises(ValueError, match="a size of the attention is wrong"):
        native_attention.run([arrays[0][:, :3].copy(), *arrays[1:]])
