"""MultiBalance (He et al. 2024, arXiv 2411.11871, Algorithm 3).

Shapes: K tasks. All mathematics in float64, on the Gramian of the representation gradients.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mbrec.balance.arguments import check_choice, check_number, task_weights
from mbrec.balance.balancer import GramianBalancer
from mbrec.balance.methods.average_norms import moved_average
from mbrec.balance.solvers.simplex import project_to_simplex

# Below this share of the largest squared norm, the combined gradient counts as zero.
STATIONARY = 1e-12


class MultiBalance(GramianBalancer):
    """One projected gradient step a batch on the weights of the tasks.

    With z_k the gradient of task k's loss with respect to the shared representation, n_k its norm
    and m_k the moving average of n_k (after Malkiel and Wolf 2020), the rows are rescaled to
    s_k z_k, and with u = w + prior_strength * prior the weights move by eq. 12,

        w <- projection on the simplex of (w - lr * c),

    where c_k is the cosine between s_k z_k and sum_j u_j s_j z_j (section 5 of the paper), or
    their inner product. The bottom then gets sum_k w_k s_k z_k. The paper's text leaves the form
    of s open; "stabilize" is the reading under which its Figure 2 comes out as printed.

    The defaults are not that text but what results/readings.md found to be safe: averages steer the
    weights and leave the gradients as they are, and the prior is in what is merged. The text is
    `ema_scope="both", prior_in_output=False, lr=1.0`.

    A task without an unmasked sample, or with a zero gradient, keeps its weight and average; the
    others move on the simplex of the mass that they hold together.

    Args:
        lr: step size of the weights; the paper's best are 1 and 5, at much larger batches.
        prior: prior weights, K non-negative numbers with a positive sum; default uniform.
        prior_strength: the paper's lambda, >= 0.
        ema_decay: decay of the moving average of the norms, in [0, 1).
        ema: row scale s_k: "stabilize" (m_k / n_k), "unit" (1 / m_k), "anchor" (m_1 / m_k, with
            the first task that was ever active as 1), "off" (1).
        ema_scope: "both" rescales rows for the weights and in the merged gradient, "weights_only"
            only for the weights.
        update: "cosine" or "inner".
        prior_in_output: merge with (w + prior_strength * prior) / (1 + prior_strength), as
            SDMGrad does, instead of with w.
        output_scale: multiplies the merged gradient; K gives it the size of a plain sum.
        rescale_limit: keeps m_k / n_k of "stabilize" within [1/limit, limit]; None: no limit.
        renormalise_active: divide by the mass of the active tasks, so that the weights sum to
            output_scale on every batch, before any row scale.

    Raises:
        ValueError: if an argument is outside its range.

    >>> MultiBalance(num_tasks=2)(torch.tensor([[4.0, 0.0], [0.0, 1.0]]))  # the larger moves down
    tensor([0.4828, 0.5172], dtype=torch.float64)
    """

    weight: Tensor
    norm_average: Tensor
    step: Tensor
    prior: Tensor

    def __init__(
        self,
        num_tasks: int,
        *,
        lr: float = 0.1,
        prior: Sequence[float] | None = None,
        prior_strength: float = 0.3,
        ema_decay: float = 0.9,
        ema: str = "stabilize",
        ema_scope: str = "weights_only",
        update: str = "cosine",
        prior_in_output: bool = True,
        output_scale: float = 1.0,
        rescale_limit: float | None = None,
        renormalise_active: bool = False,
    ) -> None:
        super().__init__(num_tasks)
        check_number("lr", lr, low=0.0)
        check_number("prior_strength", prior_strength, low=0.0)
        check_number("ema_decay", ema_decay, low=0.0, below=1.0)
        check_number("output_scale", output_scale, low=0.0)
        if rescale_limit is not None:
            check_number("rescale_limit", rescale_limit, low=1.0)
        check_choice("ema", ema, ("stabilize", "unit", "anchor", "off"))
        check_choice("ema_scope", ema_scope, ("both", "weights_only"))
        check_choice("update", update, ("cosine", "inner"))
        self.lr = lr
        self.prior_strength = prior_strength
        self.ema_decay = ema_decay
        self.ema = ema
        self.ema_scope = ema_scope
        self.update = update
        self.prior_in_output = prior_in_output
        self.output_scale = output_scale
        self.rescale_limit = rescale_limit
        self.renormalise_active = renormalise_active
        prior_K = task_weights("prior", prior, num_tasks)
        self.register_buffer("prior", prior_K, persistent=False)
        self.register_task_state("weight", prior_K.clone())
        # 0 until the task was first active: the average starts at the first norm seen.
        self.register_task_state("norm_average", torch.zeros(num_tasks, dtype=torch.float64))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def initial_share(self, task: str) -> float:
        """Return the prior weight of a task; see `Balancer.initial_share`."""
        return float(self.prior[self.task_names.index(task)])

    def weigh(
        self, gramian_KK: Tensor, active_K: Tensor, ok: Tensor, losses_K: Tensor | None
    ) -> Tensor:
        """Take lines 8-11 of Algorithm 3; see `GramianBalancer.weigh`."""
        norms_K = gramian_KK.diagonal().sqrt()
        average_K = moved_average(
            self.norm_average, norms_K, decay=self.ema_decay, active_K=active_K
        )
        scale_K = torch.where(active_K, self._row_scale(norms_K, average_K), 0.0)
        scaled_KK = gramian_KK * torch.outer(scale_K, scale_K)

        among_K = active_K.to(norms_K.dtype)
        direction_K = self._direction(scaled_KK, scale_K * norms_K, among_K)
        moved_K = torch.sub(self.weight, direction_K, alpha=self.lr)
        mass = torch.dot(self.weight, among_K)
        moved_K = project_to_simplex(moved_K, mass=mass, active_K=active_K)
        weight_K = torch.where(active_K, moved_K, self.weight)

        # Where `ok` is False no task is active, and these are what they were.
        self.weight = weight_K
        self.norm_average = average_K
        self.step = self.step + ok
        return self._output(weight_K * among_K, scale_K, among_K)

    def _row_scale(self, norms_K: Tensor, average_K: Tensor) -> Tensor:
        if self.ema == "off":
            return torch.ones_like(norms_K)
        if self.ema == "unit":
            return 1.0 / average_K
        if self.ema == "anchor":
            anchor = (average_K > 0).to(torch.int8).argmax()
            return average_K.gather(0, anchor.view(1)) / average_K
        ratio_K = average_K / norms_K
        if self.rescale_limit is not None:
            ratio_K = ratio_K.clamp(1.0 / self.rescale_limit, self.rescale_limit)
        return ratio_K

    def _direction(self, scaled_KK: Tensor, lengths_K: Tensor, among_K: Tensor) -> Tensor:
        combined_K = torch.add(self.weight, self.prior, alpha=self.prior_strength) * among_K
        inner_K = scaled_KK @ combined_K
        if self.update == "inner":
            return inner_K
        squared = torch.dot(combined_K, inner_K)
        moving = squared > STATIONARY * lengths_K.max().square()
        cosine_K = inner_K / (lengths_K * squared.sqrt())
        return torch.where(moving & (lengths_K > 0), cosine_K, 0.0)

    def _output(self, weight_K: Tensor, scale_K: Tensor, among_K: Tensor) -> Tensor:
        if self.prior_in_output:
            prior_K = self.prior * among_K
            weight_K = (weight_K + self.prior_strength * prior_K) / (1 + self.prior_strength)
        if self.renormalise_active:
            mass = weight_K.sum()
            weight_K = weight_K / torch.where(mass > 0, mass, 1.0)
        if self.ema_scope == "both":
            weight_K = weight_K * scale_K
        return weight_K if self.output_scale == 1.0 else self.output_scale * weight_K
