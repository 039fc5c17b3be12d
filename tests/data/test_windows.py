"""Every row of a stream of windows comes out once, in order, in pieces of one size."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mbrec.data.block import Bag, Block
from mbrec.data.preflight import RowGroup
from mbrec.data.windows import Window, buffers, cut, rows

SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=12)


def block(positions: np.ndarray) -> Block:
    """Rows that say where they are, with lists of 0, 1 or 2 ids."""
    n, lengths = len(positions), positions % 3
    values, offsets = np.repeat(positions, lengths), np.concatenate([[0], np.cumsum(lengths)])
    one = np.zeros((n, 0))
    return Block(
        positions[None],
        [Bag(values, offsets, values / 2)],
        *(one, one, np.ones(n), one),
        rows_n=positions,
    )


@given(SIZES, st.integers(1, 30))
def test_buffers_are_consecutive_and_as_short_as_the_size_allows(
    lengths: list[int], size: int
) -> None:
    spans = [(RowGroup("f", k, 0, n), 0, n) for k, n in enumerate(lengths)]
    found = list(buffers(spans, size))
    assert [span for buffer in found for span in buffer] == spans
    for buffer in found[:-1]:
        *but_last, last = (stop - start for _, start, stop in buffer)
        assert sum(but_last) < size <= sum(but_last) + last


@given(SIZES, st.integers(1, 30), st.integers(1, 4))
def test_pieces_are_the_rows_in_order_wherever_windows_end(
    lengths: list[int], size: int, ranks: int
) -> None:
    orders = [np.random.default_rng(n).permutation(n) for n in lengths]
    firsts = np.cumsum([0, *lengths])
    expected = np.concatenate([order + at for order, at in zip(orders, firsts[:-1], strict=True)])

    def stream() -> Iterator[Window]:
        # As the reader does it: the next window overwrites the one before.
        memory = np.empty(max(lengths), np.int64)
        for order, at in zip(orders, firsts[:-1], strict=True):
            memory[: len(order)] = np.arange(at, at + len(order))
            yield block(memory[: len(order)]), order

    found = []
    for parts in cut(stream(), size):
        # Each rank takes its stretch of the piece.
        edges = [size * rank // ranks for rank in range(ranks + 1)]
        shares = [rows(parts, a, b) for a, b in pairwise(edges)]
        found.append(np.concatenate([share.rows_n for share in shares]))
        for share in shares:
            (bag,) = share.bags
            assert np.diff(bag.offsets).tolist() == (share.rows_n % 3).tolist()
            assert bag.values.tolist() == np.repeat(share.rows_n, share.rows_n % 3).tolist()
            assert bag.weights is not None
            assert (bag.weights * 2).tolist() == bag.values.tolist()
    assert np.concatenate(found).tolist() == expected.tolist()
    assert [len(piece) for piece in found[:-1]] == [size] * (len(found) - 1)
    assert 0 < len(found[-1]) <= size
