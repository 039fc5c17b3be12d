"""A column without a single value has no type of its own, and is read by its policies."""

import pyarrow as pa

from mbrec.columns.encode import Encoder, Part, Target
from mbrec.columns.schema import Categorical, Columns, MissingId, MissingNumber, Numerical
from mbrec.columns.where import Where


def test_columns_of_nothing_but_nulls_or_empty_lists_follow_the_policies() -> None:
    columns = Columns(
        {
            "id": Categorical(cardinality=3, missing=MissingId.row),
            "words": Categorical(vocabulary="v", cardinality=2, multi_hot=True),
            "lists": Categorical(hash_size=5, multi_hot=True, missing=MissingId.row),
        },
        {"number": Numerical(missing=MissingNumber.indicator)},
        {"y": "y"},
    )
    batch = pa.record_batch(
        {
            "id": pa.nulls(2),
            "words": [[], []],
            "lists": pa.nulls(2),
            "number": pa.nulls(2),
            "y": [0, 1],
        }
    )
    encoder = Encoder(columns, [Target("y")], {"v": pa.array(["a", "b"])})
    assert encoder.problems(batch.schema) == []
    rows = encoder.encode([Part(batch, 0, Where("f", 0))], 2)
    assert rows.ids_Fn.tolist() == [[4, 4]]
    assert [bag.values.tolist() for bag in rows.bags] == [[], [6, 6]]
    assert rows.dense_nN.tolist() == [[0, 1], [0, 1]]
    strict = Columns({"id": Categorical(cardinality=3)}, {"number": Numerical()}, {"y": "y"})
    assert len(Encoder(strict, [Target("y")]).problems(batch.schema)) == 2
