from typing import Any

import pytest
import torch
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from mbrec.columns.schema import Categorical, MissingId, OutOfVocabulary
from mbrec.model.embeddings import CategoricalModule

ROW, OOV = MissingId.row, OutOfVocabulary.oov
BAGS: dict[str, Any] = {"multi_hot": True}


def module(features: dict[str, Categorical], dim: int = 3) -> CategoricalModule:
    """Return a module with tables in memory; without sharding nobody else makes them."""
    made = CategoricalModule(features, dim)
    plain = made.embeddings
    torch.manual_seed(0)
    made.embeddings = EmbeddingBagCollection(
        tables=plain.embedding_bag_configs(), is_weighted=plain.is_weighted()
    )
    return made


def tables(made: CategoricalModule) -> dict[str, Any]:
    return {name: bag.weight for name, bag in made.embeddings.embedding_bags.items()}


def batch(rows: dict[str, list[list[int]]], weights: Any = None) -> KeyedJaggedTensor:
    """Return a batch of lists of ids; `weights` are 1 where a feature has none."""
    lengths = [len(ids) for lists in rows.values() for ids in lists]
    flat = None
    if weights is not None:
        given = {name: weights.get(name, [[1.0] * len(ids) for ids in rows[name]]) for name in rows}
        flat = [w for lists in given.values() for numbers in lists for w in numbers]
    return KeyedJaggedTensor(
        keys=list(rows),
        values=torch.tensor([i for lists in rows.values() for ids in lists for i in ids]),
        lengths=torch.tensor(lengths, dtype=torch.int32),
        weights=None if flat is None else torch.tensor(flat),
    )


def test_tables_of_plain_features_are_named_ordered_and_sized_as_ever() -> None:
    features = {
        "user": Categorical(7),
        "tags": Categorical(4, multi_hot=True, embedding_dim=5),
        "query": Categorical(hash_size=6),
    }
    made = CategoricalModule(features, 3)
    configs = made.embeddings.embedding_bag_configs()
    found = [(c.name, c.num_embeddings, c.embedding_dim, c.feature_names) for c in configs]
    assert found == [
        ("user", 7, 3, ["user"]),
        ("tags", 4, 5, ["tags"]),
        ("query", 6, 3, ["query"]),
    ]
    assert not made.embeddings.is_weighted()
    assert made.out_features == 11
    assert list(made.state_dict()) == [f"embeddings.embedding_bags.{n}.weight" for n in features]
    assert all(table.is_meta for table in made.parameters())


def test_sharing_adds_no_table_and_changes_no_other() -> None:
    features = {"history": Categorical(5, table="item", **BAGS), "user": Categorical(7)}
    features |= {"item": Categorical(5), "last": Categorical(5, table="item")}
    made = module(features)
    configs = made.embeddings.embedding_bag_configs()
    assert [(c.name, c.feature_names) for c in configs] == [
        ("item", ["history", "item", "last"]),
        ("user", ["user"]),
    ]
    # The output has each feature's columns, in config order.
    rows = {"history": [[1, 2]], "user": [[3]], "item": [[4]], "last": [[2]]}
    table = tables(made)
    item, user = table["item"], table["user"]
    expected = torch.cat([item[1] + item[2], user[3], item[4], item[2]])
    torch.testing.assert_close(made(batch(rows)), expected[None])
    assert made.out_features == expected.numel()


def test_gradients_of_all_features_that_share_a_table_reach_the_same_rows() -> None:
    features = {"item": Categorical(5), "history": Categorical(5, table="item", **BAGS)}
    made = module(features)
    out = made(batch({"item": [[1], [3]], "history": [[1, 1, 2], []]}))
    upstream = torch.arange(12.0).view(2, 6)
    (out * upstream).sum().backward()
    expected = torch.zeros(5, 3)
    expected[1] = upstream[0, :3] + 2 * upstream[0, 3:]
    expected[2], expected[3] = upstream[0, 3:], upstream[1, :3]
    (table,) = tables(made).values()
    torch.testing.assert_close(table.grad, expected)


def test_weighted_bag_is_the_weighted_sum_and_other_features_weigh_one() -> None:
    features = {
        "tags": Categorical(9, weights="w", **BAGS),
        "user": Categorical(4),
        "words": Categorical(6, **BAGS),
    }
    made = module(features)
    assert made.embeddings.is_weighted()
    rows = {"tags": [[8, 2, 2], [], [5]], "user": [[0], [3], [1]], "words": [[1, 5], [2], []]}
    weights = {"tags": [[0.5, -2.0, 3.0], [], [0.0]]}
    table = tables(made)
    tags, zero = table["tags"], torch.zeros(3)
    expected = torch.stack(
        [
            torch.cat([0.5 * tags[8] + tags[2], table["user"][0], table["words"][[1, 5]].sum(0)]),
            torch.cat([zero, table["user"][3], table["words"][2]]),
            torch.cat([zero, table["user"][1], zero]),
        ]
    )
    torch.testing.assert_close(made(batch(rows, weights)), expected)


def test_missing_and_unknown_ids_have_embeddings_of_their_own() -> None:
    feature = Categorical(3, missing=ROW, out_of_vocabulary=OOV)
    made = module({"city": feature})
    out = made(batch({"city": [[0], [2], [feature.oov_row], [feature.missing_row]]}))
    (table,) = tables(made).values()
    assert len(table) == 5
    torch.testing.assert_close(out, table[[0, 2, 3, 4]])
    out[2].sum().backward()
    assert table.grad is not None
    assert table.grad.abs().sum(1).tolist() == [0, 0, 0, 3, 0]


@pytest.mark.parametrize(
    ("policies", "rows"),
    [
        ([{}, {}], 6),
        ([{"out_of_vocabulary": OOV}, {}], 7),
        ([{}, {"out_of_vocabulary": OOV}], 7),
        ([{"missing": ROW}, {"out_of_vocabulary": OOV}], 8),
        ([{}, {"out_of_vocabulary": OOV}, {"missing": ROW}, {}], 8),
    ],
)
def test_shared_table_has_the_rows_that_any_feature_needs(
    policies: list[dict[str, Any]], rows: int
) -> None:
    features = {f"f{i}": Categorical(6, table="all", **p) for i, p in enumerate(policies)}
    (config,) = CategoricalModule(features, 3).embeddings.embedding_bag_configs()
    assert (config.name, config.num_embeddings) == ("all", rows)
    # Unknown and missing ids of all of them are the same rows.
    assert len({(f.oov_row, f.missing_row) for f in features.values()}) == 1
