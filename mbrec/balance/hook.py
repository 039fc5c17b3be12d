"""The hook at the boundary: one autograd node that merges K task gradients into one.

Shapes: B batch, K tasks, H representation. W ranks of a process group.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mbrec.balance.arguments import check_choice, check_count
from mbrec.balance.backward import gramian, graph
from mbrec.balance.backward.choice import choose_backward
from mbrec.balance.backward.fanout import FanOut
from mbrec.balance.backward.merging import Observed
from mbrec.balance.backward.spans import Marks
from mbrec.balance.backward.step import Step, inside_backward
from mbrec.balance.balancer import Balancer, Row
from mbrec.balance.solvers.spectrum import cosine_matrix
from mbrec.balance.values import KeptValues

Representation = Tensor | tuple[Tensor, ...]


class BalanceHook(KeptValues):
    """Fans a shared representation out to K views and merges their gradients (He et al. 2024).

    Forward gives K views of the representation, one a task head, without a copy. In the ordinary
    backward pass the K gradients arrive here together; their K x K Gramian over the global batch
    (one small collective) goes to the balancer; their weighted sum continues into the shared
    bottom. The heads' own gradients pass untouched. In eval mode, under `no_grad` and
    where the representation needs no gradient the hook balances nothing, and each view but the
    last is a copy: a head that works in place changes no other's input. In training torch refuses
    such a head.

    Nothing is synchronised with the host. Backward must reach the hook once a forward, and each
    rank of the group must run it equally often: the sum over ranks is a collective.

    Args:
        balancer: what turns the Gramian into weights.
        task_names: K names that the state is saved by; default "0" .. "K-1".
        process_group: the ranks that hold slices of one global batch; default: the default group
            where torch.distributed is initialised, else this process alone. Give the hook a
            group of its own where other collectives run during backward.
        statistics: compute the Gramian also for a balancer that does not need it (`Equal`), to
            watch norms and cosines. Without it such a balancer costs nothing, checks nothing for
            finiteness, and leaves `gramian` None.
        parameters: a module of the shared bottom, to balance the gradients of its parameters and
            not those of the representation (the K-backward baselines of the paper's Table 2).
            Each of the K gradients is then taken down to that module inside the one backward,
            which costs about as much as K backward passes to there.
        lag: 1 merges with the weights of the step before, and lets the collective run behind the
            rest of backward; the first step has the weights of orthonormal gradients. `gramian`
            and `losses` are then those of the step before, and `ok` is that of this rank.
        accumulate: micro-batches per step, each with its loss divided by that number. The weights
            stand still within a step and come, as with lag=1, from the step before.

    Attributes:
        weights: float64 (K,), the effective weights on the raw gradients in the last backward.
        gramian: float64 (K, K), inner products over the global batch, or None before the first.
        local_gramian: float64 (K, K), that of this rank's own rows, to find the rank of a value
            that is not finite; or None.
        losses: float64 (K,), the observed losses over the global batch, or None.
        ok: bool tensor, False where the last backward met a non-finite value; it then merged to
            zero and changed no state.
        skipped: int64 tensor, how often that has happened.
        loss_scale: what the loss was multiplied by (AMP); statistics are divided by it.

    Raises:
        ValueError: if an argument is wrong, or two do not go together.

    >>> from mbrec.balance import Equal
    >>> hook = BalanceHook(Equal(2), task_names=["ctr", "cvr"], statistics=True)
    >>> shared_BH = torch.ones(4, 2, requires_grad=True)
    >>> ctr_BH, cvr_BH = hook(shared_BH)
    >>> (ctr_BH.sum() + 2 * cvr_BH.sum()).backward()
    >>> shared_BH.grad[0], hook.grad_norms, round(hook.cosines[0, 1].item(), 6)
    (tensor([3., 3.]), tensor([2.8284, 5.6569], dtype=torch.float64), 1.0)
    """

    weights: Tensor
    ok: Tensor
    skipped: Tensor

    def __init__(
        self,
        balancer: Balancer,
        *,
        task_names: Sequence[str] | None = None,
        process_group: dist.ProcessGroup | None = None,
        statistics: bool = False,
        parameters: nn.Module | None = None,
        lag: int = 0,
        accumulate: int = 1,
    ) -> None:
        super().__init__()
        if not isinstance(balancer, Balancer):
            raise ValueError(f"expected a Balancer, got {balancer!r}")
        check_choice("lag", lag, (0, 1))
        check_count("accumulate", accumulate, low=1)
        if task_names is not None:
            balancer.name_tasks(task_names)
        self.balancer = balancer
        self.statistics = statistics or balancer.constant_weights is None
        self.loss_scale: float | Tensor = 1.0
        constant = balancer.constant_weights or (0.0,) * balancer.num_tasks
        self.register_buffer("weights", torch.tensor(constant).double(), persistent=False)
        self.register_buffer("ok", torch.tensor(True), persistent=False)
        self.register_buffer("skipped", torch.tensor(0), persistent=False)
        self.gramian: Tensor | None = None
        self.local_gramian: Tensor | None = None
        self.losses: Tensor | None = None
        self._step: Step | None = None
        self._way = choose_backward(balancer, process_group, parameters, lag, accumulate)
        self._accumulate = accumulate
        self._bypass = False
        self._below: str | None = None
        # Not a closure: a copy of the hook finishes its own step.
        self.register_state_dict_pre_hook(_finish)
        self.register_load_state_dict_pre_hook(_forget)

    def forward(self, shared: Representation) -> tuple[Representation, ...]:
        """Return K views of the representation, in task order.

        Args:
            shared: a tensor with the batch first, or a tuple of them (their Gramians add).

        Raises:
            ValueError: if it is neither, or on another device; if gradients are accumulated or
                scaled, and a table below updates itself inside backward; if the hook has been on
                the meta device.
        """
        self._way.mark("outside")
        num_tasks = self.balancer.num_tasks
        parts = shared if isinstance(shared, tuple) else (shared,)
        if not parts or not all(isinstance(part, Tensor) for part in parts):
            raise ValueError(f"expected a tensor or a tuple of tensors, got {type(shared)}")
        needs_grad = torch.is_grad_enabled() and any(part.requires_grad for part in parts)
        if self._bypass:
            return (shared,) * num_tasks
        if self.training and not (self._step and not self._step.merged and inside_backward()):
            self._step = Step()
        if not (self.training and needs_grad):
            copies = [tuple(part.clone() for part in parts) for _ in range(num_tasks - 1)]
            views_K = [*copies, parts]
        else:
            self._check(parts)
            assert self._step is not None
            views_K = self._fan_out(parts, self._step)
            self._way.mark("views")
        return tuple(views_K if isinstance(shared, tuple) else (view[0] for view in views_K))

    def observe(self, losses_K: Tensor | Sequence[Tensor], counts_K: Tensor | None = None) -> None:
        """Give the hook this batch's losses, between forward and backward.

        Args:
            losses_K: this rank's losses, as they go into backward but for the loss scale; the
                global loss is their mean over the ranks. They count for this forward alone.
            counts_K: unmasked samples of each task, of this rank or of the global batch; a task
                with none on any rank keeps its state.

        Raises:
            ValueError: if there are not K of them.
            RuntimeError: in training, without a forward that still waits for its backward.
        """
        if not isinstance(losses_K, Tensor):
            losses_K = torch.stack([loss.detach() for loss in losses_K])
        shape = (self.balancer.num_tasks,)
        for name, values in (("losses", losses_K), ("counts", counts_K)):
            if values is not None and values.shape != shape:
                raise ValueError(f"expected {shape[0]} {name}, got shape {tuple(values.shape)}")
        if self._bypass or not self.training:
            return
        if self._step is None or self._step.merged:
            raise RuntimeError(
                "expected observe() between a forward of the hook and its backward, got it "
                + ("before any forward" if self._step is None else "after that backward")
            )
        self._step.observed = Observed(losses_K.detach(), counts_K)

    @property
    def bypass(self) -> bool:
        """Whether forward is the identity, so that autograd adds the K gradients up.

        No statistics, no collective, no state that changes: the step without the hook, to compare
        it with. Set it between steps, on every rank alike. Meanwhile `ok` is True, `gramian` and
        `losses` are None, and `weights` those of the last backward that was balanced.
        """
        return self._bypass

    @bypass.setter
    def bypass(self, value: bool) -> None:
        """Take the hook out, or put it back."""
        self._bypass = value
        if value:
            self.ok = torch.ones_like(self.ok)
            self.gramian = self.local_gramian = self.losses = self._step = None

    def mark_parts(self, marks: Marks | None) -> None:
        """Report each part of the hook's work to a function as it ends; None: to none."""
        self._way.marks = marks

    @property
    def decides_together(self) -> bool:
        """Whether `ok` is the verdict of all ranks: with statistics, and without `lag`."""
        return self.statistics and self._way.decides_together and not self._bypass

    @property
    def grad_norms(self) -> Tensor | None:
        """Norms of the K raw gradients over the global batch, float64 (K,)."""
        return None if self.gramian is None else self.gramian.diagonal().sqrt()

    @property
    def cosines(self) -> Tensor | None:
        """Cosines between the K raw gradients, float64 (K, K); 0 where a gradient is zero."""
        if self.gramian is None:
            return None
        return cosine_matrix(self.gramian, self.gramian.diagonal() > 0)[1]

    def adapt_state_dict(
        self,
        state_dict: Mapping[str, Tensor],
        *,
        new: Iterable[str] = (),
        dropped: Iterable[str] = (),
    ) -> dict[str, Tensor]:
        """Return a saved state of other tasks, made to fit this hook's.

        A new task starts at its prior share, and the others' weights are rescaled to make room;
        a dropped task's weight is shared among the rest in proportion.

        Args:
            state_dict: what `state_dict()` of the earlier hook gave.
            new: the tasks of this hook that the saved state does not have.
            dropped: the tasks of the saved state that this hook does not have.

        Raises:
            ValueError: if a task is new or dropped without being named so.
        """
        balancer, start = self.balancer, len("balancer.")
        starts = {task: balancer.initial_share(task) for task in balancer.task_names}
        adapted = balancer.adapt(
            {key[start:]: value for key, value in self.state_dict().items()},
            {key[start:]: value for key, value in state_dict.items()},
            {task: share for task, share in starts.items() if share is not None},
            new=set(new),
            dropped=set(dropped),
        )
        return {f"balancer.{key}": value for key, value in adapted.items()}

    def _check(self, parts: Row) -> None:
        """Refuse what cannot be exact; searches the graph in the first forward only."""
        if parts[0].device != self.weights.device:
            raise ValueError(
                f"expected a representation on {self.weights.device}, where the hook is, got one "
                f"on {parts[0].device}; move the hook with hook.to(device)"
            )
        self.check_values(parts[0].device)
        if self._below is None:
            self._below = graph.updates_in_backward(parts) or ""
        self._refuse_scaled()

    def _refuse_scaled(self) -> None:
        scaled = isinstance(self.loss_scale, Tensor) or self.loss_scale != 1.0
        if self._below and (scaled or self._accumulate > 1):
            graph.refuse(self._below)

    def _fan_out(self, parts: Row, step: Step) -> list[Row]:
        # A part without a gradient has none to balance.
        live_parts = [part for part in parts if part.requires_grad]
        num_tasks, keep = self.balancer.num_tasks, self._way.reads_representation
        run = partial(self._backward, step)
        live = iter(FanOut.apply(run, num_tasks, keep, *live_parts))
        return [
            tuple(
                next(live) if part.requires_grad else part.clone() if k else part for part in parts
            )
            for k in range(num_tasks)
        ]

    def _backward(self, step: Step, rows_K: list[Row], parts: Row) -> Row:
        if step.merged:
            self._take_back(step)
            raise RuntimeError(
                "expected one backward through a forward of the hook, got another: add the losses "
                "of the tasks and call backward once; each gradient alone cannot be balanced"
            )
        step.merged = True
        self._way.mark("heads")
        self._refuse_scaled()
        constant = self.balancer.constant_weights
        if constant is not None and not self.statistics:
            parts_K = zip(*rows_K, strict=True)
            merged = tuple(gramian.constant_sum(grads_K, constant) for grads_K in parts_K)
            self._way.mark("merge")
            return merged
        step.saved = self._way.saved(), self._shown()
        result = self._way.step(rows_K, parts, step.observed, self.loss_scale)
        self.weights, self.ok = result.weights_K, result.ok
        self.gramian, self.losses = result.gramian_KK, result.losses_K
        self.local_gramian = result.local_KK
        self.skipped = self.skipped + ~result.ok
        self._way.mark("rest")
        return result.merged

    def _shown(self) -> dict[str, Tensor | None]:
        names = ("weights", "ok", "skipped", "gramian", "local_gramian", "losses")
        return {name: getattr(self, name) for name in names}

    def _take_back(self, step: Step) -> None:
        """Undo a backward to which not every task had brought its gradient, for one more has come.

        One with all of them stays: it was right, and the other is too much. Neither can be told
        from the other before, and what a later forward has built on stays as well.
        """
        gramian_KK = self.gramian if self.local_gramian is None else self.local_gramian
        if self._step is not step or step.saved is None or gramian_KK is None:
            return
        if bool((gramian_KK.diagonal() > 0).all()):
            return
        (state, shown), step.saved = step.saved, None
        self._way.take_back(state)
        for name, value in shown.items():
            setattr(self, name, value)


def _finish(hook: nn.Module, prefix: str, keep_vars: bool) -> None:
    assert isinstance(hook, BalanceHook)
    hook._way.mark("outside")
    hook._way.finish()


def _forget(hook: nn.Module, *_: object) -> None:
    assert isinstance(hook, BalanceHook)
    hook._step = None
    hook._way.forget()
