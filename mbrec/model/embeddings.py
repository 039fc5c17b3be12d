"""Categorical features -> embeddings.

Shapes: B batch, F features, D_f embedding width of feature f.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from mbrec.columns.schema import Categorical


class CategoricalModule(nn.Module):
    """One embedding table a feature, or a group of features that share it.

    The embeddings of a multi-hot feature's ids are summed, times their weights where it has some.

    The tables are made on the meta device: they take no memory until they are sharded, and are
    filled after that (`mbrec.distributed.table_init.init_tables`).

    Args:
        features: name -> feature; their order is that of the output's columns.
        embedding_dim: width of the tables that do not set their own.

    Attributes:
        widths: feature -> D_f, in the order of the output's columns.
    """

    def __init__(self, features: Mapping[str, Categorical], embedding_dim: int) -> None:
        super().__init__()
        dims = [feature.embedding_dim or embedding_dim for feature in features.values()]
        tables: dict[str, EmbeddingBagConfig] = {}
        for (name, feature), dim in zip(features.items(), dims, strict=True):
            table = tables.setdefault(
                feature.table or name,
                EmbeddingBagConfig(
                    name=feature.table or name,
                    embedding_dim=dim,
                    num_embeddings=feature.num_embeddings,
                    feature_names=[],
                ),
            )
            table.feature_names.append(name)
            table.num_embeddings = max(table.num_embeddings, feature.num_embeddings)
        self.embeddings = EmbeddingBagCollection(
            tables=list(tables.values()),
            is_weighted=any(feature.weights for feature in features.values()),
            device=torch.device("meta"),
        )
        self.widths = dict(zip(features, dims, strict=True))
        self.names = list(features)
        self.out_features = sum(dims)

    def forward(self, sparse: KeyedJaggedTensor) -> Tensor:
        """Return the embeddings side by side, (B, sum of D_f), in config order."""
        # values() of the result is in the order of the sharding plan, which differs from one
        # number of ranks to another; only regrouping fixes the columns.
        return KeyedTensor.regroup([self.embeddings(sparse)], [self.names])[0]
