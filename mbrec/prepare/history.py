"""What users did before: for each row of a log, the last events of its user."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Ints = npt.NDArray[np.int64]


class History:
    """Events of users (who, what, when), of which rows are given the last few before them.

    Events may be added in any order, and rows asked for in any order. Memory holds the events that
    were added and not forgotten: 40 bytes each.

    Args:
        length: maximum number of events of a row.

    Raises:
        ValueError: if the length is not positive.
    """

    def __init__(self, length: int) -> None:
        if length < 1:
            raise ValueError(f"expected a history of at least 1 event, got {length}")
        self.length = length
        none = np.empty(0, np.int64)
        self._keep(none, none, none)

    def __len__(self) -> int:
        return len(self._items)

    def add(self, users: Ints, items: Ints, times: Ints) -> None:
        """Add events; one that is there already, with the same user, item and time, is not new."""
        users = np.concatenate([self._users, users])
        items = np.concatenate([self._items, items])
        times = np.concatenate([self._times, times])
        # Events of the same user and time are put in the order of the items, so that what a row
        # gets does not depend on the order in which they came.
        order = np.lexsort((items, times, users))
        users, items, times = users[order], items[order], times[order]
        new = np.ones(len(users), bool)
        new[1:] = (np.diff(users) != 0) | (np.diff(times) != 0) | (np.diff(items) != 0)
        self._keep(users[new], items[new], times[new])

    def forget(self, time: int) -> None:
        """Drop the events that no row of this time or a later one can get."""
        _, ends = self._range(self._known, np.full(len(self._known), time))
        counts = np.diff(np.append(self._starts, len(self)))
        kept = np.arange(len(self)) >= np.repeat(ends - self.length, counts)
        self._keep(self._users[kept], self._items[kept], self._times[kept])

    def before(self, users: Ints, times: Ints) -> pa.ListArray:
        """Return for each row the items of its user's last events before its time.

        Args:
            users: of each row; one without events gets an empty list.
            times: of each row; an event of the very same time is not before it.

        Returns:
            Lists of int32, newest first.
        """
        starts, ends = self._range(users, times)
        lengths = np.minimum(ends - starts, self.length)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        age = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
        items = self._items[np.repeat(ends, lengths) - 1 - age]
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(items, pa.int32()))

    def _keep(self, users: Ints, items: Ints, times: Ints) -> None:
        """Hold events, which are sorted by user and time."""
        self._users, self._items, self._times = users, items, times
        self._known, self._starts = np.unique(users, return_index=True)
        self._moments = np.unique(times)
        # One number that sorts as user and time do. Both are counted, so it cannot overflow.
        counts = np.diff(np.append(self._starts, len(users)))
        self._keys = self._key(
            np.repeat(np.arange(len(self._known)), counts), np.searchsorted(self._moments, times)
        )

    def _key(self, user: Ints, moment: Ints) -> Ints:
        return user * (len(self._moments) + 1) + moment

    def _range(self, users: Ints, times: Ints) -> tuple[Ints, Ints]:
        """Return where each row's events begin, and where those before its time end."""
        user = np.searchsorted(self._known, users)
        starts = np.append(self._starts, len(self))[user]
        ends = np.searchsorted(self._keys, self._key(user, np.searchsorted(self._moments, times)))
        is_known = np.isin(users, self._known)
        return starts, np.where(is_known, ends, starts)
