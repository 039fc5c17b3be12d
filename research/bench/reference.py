"""A ranking model in plain torch, and the ways to balance its tasks that people use.

Shapes: B batch, K tasks, H representation, P parameters.
"""

import importlib
import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor, nn

from mbrec.balance import MGDA, BalanceHook, MultiBalance

NUM_TABLES, TABLE_ROWS, EMBEDDING_DIM, NUM_DENSE = 26, 1000, 32, 13


class Reference(nn.Module):
    """26 embedding bags and 13 numbers, two cross layers, an MLP of width H, and K heads."""

    def __init__(self, num_tasks: int, width: int, device: torch.device) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tables = nn.ModuleList(
            nn.EmbeddingBag(TABLE_ROWS, EMBEDDING_DIM, mode="sum") for _ in range(NUM_TABLES)
        )
        features = NUM_TABLES * EMBEDDING_DIM + NUM_DENSE
        self.interaction = nn.ModuleList(nn.Linear(features, features) for _ in range(2))
        self.mlp = nn.Sequential(nn.Linear(features, 512), nn.ReLU(), nn.Linear(512, width))
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 128), nn.ReLU(), nn.Linear(128, 1))
            for _ in range(num_tasks)
        )
        self.to(device)

    def bottom(self, ids_BF: Tensor, dense_BN: Tensor) -> Tensor:
        """Return the shared representation (B, H)."""
        bags = zip(self.tables, ids_BF.split(1, dim=1), strict=True)
        first = torch.cat([*(table(ids) for table, ids in bags), dense_BN], dim=1)
        crossed = first
        for layer in self.interaction:
            crossed = first * layer(crossed) + crossed
        return self.mlp(crossed)

    def losses(self, views: tuple[Tensor, ...], labels_BK: Tensor) -> list[Tensor]:
        """Return the K losses."""
        return [
            nn.functional.binary_cross_entropy_with_logits(head(view)[:, 0], labels_B)
            for head, view, labels_B in zip(self.heads, views, labels_BK.T, strict=True)
        ]


class Contest:
    """One model, one batch of B rows, and several ways to run a training step."""

    def __init__(self, num_tasks: int, batch: int, width: int, device: torch.device) -> None:
        self.model = Reference(num_tasks, width, device)
        self.num_tasks = num_tasks
        self.ids_BF = torch.randint(TABLE_ROWS, (batch, NUM_TABLES), device=device)
        self.dense_BN = torch.randn(batch, NUM_DENSE, device=device)
        rates_K = torch.linspace(0.3, 0.02, num_tasks, device=device)
        self.labels_BK = (torch.rand(batch, num_tasks, device=device) < rates_K).float()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01)
        self.shared = [
            *self.model.tables.parameters(),
            *self.model.interaction.parameters(),
            *self.model.mlp.parameters(),
        ]

    def _step(self, backward: Callable[[Tensor], None]) -> Callable[[], None]:
        """Return a step whose backward pass starts at the representation."""

        def step() -> None:
            shared_BH = self.model.bottom(self.ids_BF, self.dense_BN)
            self.optimizer.zero_grad()
            backward(shared_BH)
            self.optimizer.step()

        return step

    def _losses(self, shared_BH: Tensor) -> list[Tensor]:
        return self.model.losses((shared_BH,) * self.num_tasks, self.labels_BK)

    def hooked(self, hook: BalanceHook | None) -> Callable[[], None]:
        """Return a step with a hook, or the plain one."""

        def backward(shared_BH: Tensor) -> None:
            views = (shared_BH,) * self.num_tasks if hook is None else hook(shared_BH)
            torch.stack(self.model.losses(views, self.labels_BK)).sum().backward()

        return self._step(backward)

    def passes(self) -> Callable[[], None]:
        """Return a step of K `autograd.grad` passes over all shared parameters."""
        balancer = MGDA(self.num_tasks)

        def backward(shared_BH: Tensor) -> None:
            losses = self._losses(shared_BH)
            rows = [torch.autograd.grad(loss, self.shared, retain_graph=True) for loss in losses]
            flat_KP = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
            weights_K = balancer(flat_KP @ flat_KP.T).to(flat_KP.dtype)
            merged_P = weights_K @ flat_KP
            sizes = [parameter.numel() for parameter in self.shared]
            for parameter, grad in zip(self.shared, merged_P.split(sizes), strict=True):
                parameter.grad = grad.view_as(parameter)
            self._give_heads_theirs(losses)

        return self._step(backward)

    def torchjd_representation(self) -> Callable[[], None]:
        """Return a step of torchjd's Jacobian at the representation, MGDA on its Gramian."""
        weighting = importlib.import_module("torchjd.aggregation").MGDAWeighting()
        autojac = importlib.import_module("torchjd.autojac")

        def backward(shared_BH: Tensor) -> None:
            leaf_BH = shared_BH.detach().requires_grad_()
            losses = self._losses(leaf_BH)
            flat = autojac.jac(losses, [leaf_BH], retain_graph=True)[0].flatten(1)
            gramian_KK = flat @ flat.T
            weights_K = weighting(gramian_KK / gramian_KK.trace())
            self._give_heads_theirs(losses)
            shared_BH.backward((weights_K @ flat).view_as(shared_BH))

        return self._step(backward)

    def torchjd_parameters(self) -> Callable[[], None]:
        """Return a step of torchjd's `mtl_backward` and `jac_to_grad`, MGDA on all shared ones."""
        aggregator = importlib.import_module("torchjd.aggregation").MGDA()
        autojac = importlib.import_module("torchjd.autojac")

        def backward(shared_BH: Tensor) -> None:
            autojac.mtl_backward(
                self._losses(shared_BH),
                features=shared_BH,
                tasks_params=[list(head.parameters()) for head in self.model.heads],
                shared_params=self.shared,
                parallel_chunk_size=1,
            )
            autojac.jac_to_grad(self.shared, aggregator)

        return self._step(backward)

    def _give_heads_theirs(self, losses: list[Tensor]) -> None:
        heads = list(self.model.heads.parameters())
        grads = torch.autograd.grad(torch.stack(losses).sum(), heads, retain_graph=True)
        for parameter, grad in zip(heads, grads, strict=True):
            parameter.grad = grad

    def steps(self) -> dict[str, Callable[[], None]]:
        """Return the steps to compare, by name; the first is the baseline."""
        steps = {
            "no balancing": self.hooked(None),
            "no balancing, again": self.hooked(None),
            "`MultiBalance`": self.hooked(BalanceHook(MultiBalance(self.num_tasks))),
            "`MGDA`": self.hooked(BalanceHook(MGDA(self.num_tasks))),
            "`MGDA` at the interaction's parameters": self.hooked(
                BalanceHook(MGDA(self.num_tasks), parameters=self.model.interaction)
            ),
            "K `autograd.grad` passes, MGDA on all shared parameters": self.passes(),
        }
        if importlib.util.find_spec("torchjd"):
            steps["torchjd at the representation, MGDA"] = self.torchjd_representation()
            steps["torchjd `mtl_backward`, MGDA on all shared parameters"] = (
                self.torchjd_parameters()
            )
        return steps
