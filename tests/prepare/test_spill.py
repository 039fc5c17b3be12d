"""Rows that are dealt to files by a number come back in the order in which they were added."""

import numpy as np
import pyarrow as pa

from mbrec.prepare.spill import Spill


def test_rows_of_a_number_come_back_in_their_order_wherever_the_tables_are_cut(tmp_path):
    numbers = np.random.default_rng(0).integers(-3, 3, 1_000)
    table = pa.table({"place": np.arange(1_000), "text": pa.array([f"t{k}" for k in range(1_000)])})
    with Spill(tmp_path / "rows") as spilled:
        for start in range(0, 1_000, 130):
            spilled.add(table.slice(start, 130), numbers[start : start + 130])
    assert spilled.numbers == sorted(set(numbers.tolist()))
    for number in spilled.numbers:
        assert spilled.read(number).equals(table.filter(pa.array(numbers == number)))
        pieces = spilled.batches(number, ["place"])
        assert [k for rows in pieces for k in rows["place"].to_pylist()] == np.flatnonzero(
            numbers == number
        ).tolist()
        spilled.remove(number)
    assert list((tmp_path / "rows").iterdir()) == []
