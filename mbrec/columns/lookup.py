"""Positions of values in a vocabulary."""

from itertools import count

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mbrec.columns.hashing import hash_strings


class Lookup:
    """Finds values in a vocabulary by a binary search.

    It is built once: pyarrow's `index_in` would hash the whole vocabulary again for every call.

    Args:
        values: integers or strings, each once, without nulls.

    Raises:
        ValueError: if a value comes twice; no salt would tell its positions apart.
    """

    def __init__(self, values: pa.Array) -> None:
        self.values = values
        self._is_text = not pa.types.is_integer(values.type)
        for salt in count():
            self._salt = salt
            keys = self._keys(values)
            self._order = np.argsort(keys)
            self._sorted = keys[self._order]
            if (self._sorted[1:] != self._sorted[:-1]).all():  # No two strings have the same hash.
                break
            if len(values.unique()) < len(values):
                raise ValueError("expected each value of a vocabulary once, got one twice")

    def find(self, column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
        """Return the position of each value, int64, and whether there is one.

        Args:
            column: strings for a vocabulary of strings, otherwise integers; without nulls.
        """
        keys = self._keys(column)
        at = np.searchsorted(self._sorted, keys)
        at[at == len(self._sorted)] = 0
        positions = self._order[at]
        found = self._sorted[at] == keys
        if self._is_text:
            same = (self.values.take(pa.array(positions)), column)
            equal = pc.call_function("equal", [part.cast(pa.large_binary()) for part in same])
            found &= equal.fill_null(False).to_numpy(zero_copy_only=False)
        elif pa.types.is_uint64(column.type) != pa.types.is_uint64(self.values.type):
            found &= keys >= 0  # As int64, the largest numbers of uint64 are negative.
        return positions, found

    def _keys(self, values: pa.Array) -> np.ndarray:
        if self._is_text:
            return hash_strings(values, 1 << 63, self._salt)
        return values.to_numpy(zero_copy_only=False).astype(np.int64)
