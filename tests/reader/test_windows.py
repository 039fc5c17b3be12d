"""Every row of a stream is in one window, which has rows of many row groups and a bounded size."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mbrec.reader.footers import RowGroup
from mbrec.reader.row_groups import MAX_OPEN_FILES
from mbrec.reader.windows import (
    MAX_OPEN_ROW_GROUPS,
    MIN_SLICE_ROWS,
    MIXED_ROW_GROUPS,
    Slice,
    plan,
    shuffled,
)


def spans_of(sizes: list[int]) -> list[Slice]:
    return [Slice(RowGroup("f", k, 0, n), 0, n) for k, n in enumerate(sizes)]


LIKE_SIZES = st.integers(1, 3_000).flatmap(
    lambda least: st.lists(st.integers(least, 2 * least), min_size=1, max_size=70)
)
ANY_SIZES = st.lists(st.sampled_from([1, 2, 70, 255, 256, 1_000, 4_096, 50_000]), max_size=70)


@given(LIKE_SIZES | ANY_SIZES, st.integers(0, 20_000))
def test_windows_have_each_row_once_and_are_of_bounded_size(sizes: list[int], size: int) -> None:
    spans, at = spans_of(sizes), [0] * len(sizes)
    for window in plan(spans, size):
        rows, begun = sum(part.num_rows for part in window), 0
        for group, start, stop, is_last in window:
            assert at[group.index] == start < stop
            at[group.index] = stop
            assert is_last is (stop == group.num_rows)
            begun += not is_last
        assert begun <= MAX_OPEN_ROW_GROUPS
        if size:
            assert rows < max(2 * size, 2 * MIN_SLICE_ROWS * MAX_OPEN_ROW_GROUPS) + len(window)
            assert begun == 0 or min(rows, max(sizes)) >= MIN_SLICE_ROWS
    assert at == sizes


@given(LIKE_SIZES, st.integers(1, 20_000))
def test_windows_have_rows_of_at_least_eight_row_groups(sizes: list[int], size: int) -> None:
    for window in plan(spans_of(sizes), size):
        groups = {part.group.index for part in window}
        assert len(groups) == len(window) >= min(MIXED_ROW_GROUPS, len(sizes))
        if len(sizes) >= MIXED_ROW_GROUPS:
            # Sizes differ by a factor of two, and so do shares, but for a row.
            rows, largest = sum(p.num_rows for p in window), max(p.num_rows for p in window)
            assert largest <= 2 / (MIXED_ROW_GROUPS + 1) * rows + 1


def test_row_groups_of_any_number_are_mixed_to_the_last_window() -> None:
    for count in (*range(1, 20), 31, 32, 33, 64, 99):
        for size in (4_096, 65_536):
            windows = list(plan(spans_of([65_536] * count), size))
            assert min(map(len, windows)) >= min(MIXED_ROW_GROUPS, count)
            assert max(map(len, windows)) <= MAX_OPEN_ROW_GROUPS
            sizes = [sum(part.num_rows for part in window) for window in windows]
            assert max(abs(rows - size) for rows in sizes) < MAX_OPEN_ROW_GROUPS


def test_small_row_groups_are_read_whole() -> None:
    windows = list(plan(spans_of([8_192] * 24), 65_536))
    assert [[part.num_rows for part in window] for window in windows] == [[8_192] * 8] * 3
    (window,) = plan(spans_of([8_192] * 9), 65_536)
    assert [part.num_rows for part in window] == [8_192] * 9
    windows = list(plan(spans_of([100] * 1_500), 65_536))
    assert sum(map(len, windows)) == 1_500


def test_rows_in_file_order_keep_it() -> None:
    spans = spans_of([5, 70_000, 1])
    assert list(plan(spans, 0)) == [[span] for span in spans]


@given(st.integers(1, 40), st.integers(1, 5), st.integers(0, 9))
def test_row_groups_are_shuffled_a_few_files_at_a_time(files: int, each: int, seed: int) -> None:
    groups = [RowGroup(f"{file}", k, 0, 1) for file in range(files) for k in range(each)]
    found = shuffled(groups, np.random.default_rng(seed))
    assert sorted(map(str, found)) == sorted(map(str, groups))
    if files <= MAX_OPEN_FILES:
        # Any row group may be beside any other.
        order = np.random.default_rng(seed).permutation(len(groups))
        assert found == [groups[i] for i in order]
    left = {str(file): each for file in range(files)}
    begun: set[str] = set()
    for group in found:
        begun.add(group.file)
        left[group.file] -= 1
        assert sum(left[file] > 0 for file in begun) <= MAX_OPEN_FILES


def test_files_are_shuffled_before_their_row_groups() -> None:
    groups = [RowGroup(f"{file}", k, 0, 1) for file in range(40) for k in range(8)]
    orders = [shuffled(groups, np.random.default_rng(seed)) for seed in range(20)]
    first = [{int(group.file) for group in order[:100]} for order in orders]
    assert set.union(*first) == set(range(40))
    assert len({tuple(sorted(files)) for files in first}) == 20
