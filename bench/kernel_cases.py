"""What the benchmark of the kernels times: each operation of ``iql_fast.ops`` beside its rivals."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from iql_fast import ops

Call = Callable[[], Any]

TAU, BETA, CLIP, DISCOUNT, ALPHA, LEARNING_RATE = 0.7, 3.0, 100.0, 0.99, 0.005, 3e-4
#: Components of an action, columns of an observation: those of hopper.
ACTIONS, OBSERVATIONS, HIDDEN = 3, 11, 256


@dataclass(frozen=True)
class Case:
    """One operation at one size.

    Attributes:
        n: elements, rows or parameters.
        size: what they are, for the table.
        calls: contender -> the call that is timed. ``iql_fast`` is among them.
        check: contender -> what its call gives, in tensors that must agree; of fresh inputs.
        bytes: that must be moved at the least: each input read and each output written once.
        eager: of a loss, what torch.compile is given.
        timed, results: make a timed call, and one whose results are checked, of such a function.
    """

    operation: str
    n: int
    size: str
    calls: dict[str, Call]
    check: dict[str, Callable[[], Sequence[Tensor]]]
    bytes: int = 0
    eager: Callable[..., Any] | None = None
    timed: Callable[[Callable[..., Any]], Call] | None = None
    results: Callable[[Callable[..., Any]], Callable[[], Sequence[Tensor]]] | None = None


def numbers(*shape: int, seed: int = 0, grad: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    made = torch.randn(shape, generator=generator, device="cpu")
    return made.to(torch.get_default_device()).requires_grad_(grad)


# The losses as one writes them in eager torch.


def expectile_eager(q: Tensor, v: Tensor) -> Tensor:
    u = q - v
    return (torch.abs(TAU - (u < 0).to(u.dtype)) * u**2).mean()


def expectile_of_two_eager(q1: Tensor, q2: Tensor, v: Tensor) -> Tensor:
    return expectile_eager(torch.minimum(q1, q2), v)


def weights_eager(q: Tensor, v: Tensor) -> Tensor:
    return torch.exp(BETA * (q - v)).clamp(max=CLIP)


def awr_eager(q: Tensor, v: Tensor, log_prob: Tensor) -> Tensor:
    return -(weights_eager(q, v) * log_prob).mean()


def gaussian_eager(q: Tensor, v: Tensor, mean: Tensor, log_std: Tensor, action: Tensor) -> Tensor:
    normal = torch.distributions.Normal(mean, log_std.exp())
    return awr_eager(q, v, normal.log_prob(action).sum(-1))


def twin_q_eager(q1: Tensor, q2: Tensor, r: Tensor, mask: Tensor, next_v: Tensor) -> Tensor:
    target = r + DISCOUNT * mask * next_v
    return functional.mse_loss(q1, target) + functional.mse_loss(q2, target)


def expectile_ours(q: Tensor, v: Tensor) -> Tensor:
    return ops.expectile_loss(q, v, TAU)


def expectile_of_two_ours(q1: Tensor, q2: Tensor, v: Tensor) -> Tensor:
    return ops.expectile_loss([q1, q2], v, TAU)


def weights_ours(q: Tensor, v: Tensor) -> Tensor:
    return ops.awr_weights(q, v, BETA, CLIP)


def awr_ours(q: Tensor, v: Tensor, log_prob: Tensor) -> Tensor:
    return ops.awr_loss(q, v, log_prob, BETA, CLIP)


def gaussian_ours(q: Tensor, v: Tensor, mean: Tensor, log_std: Tensor, action: Tensor) -> Tensor:
    return ops.gaussian_awr_loss(q, v, mean, log_std, action, BETA, CLIP)


def twin_q_ours(q1: Tensor, q2: Tensor, r: Tensor, mask: Tensor, next_v: Tensor) -> Tensor:
    return ops.twin_q_loss([q1, q2], r, mask, next_v, DISCOUNT)


@dataclass(frozen=True)
class Loss:
    """A loss with its inputs: ``[n]`` each, ``actions`` [n, A], ``parameters`` [A].

    Attributes:
        differentiable: inputs that need a gradient.
        floats: numbers that a forward pass must move for each row, and a backward pass beside
            them.
    """

    name: str
    ours: Callable[..., Tensor]
    eager: Callable[..., Tensor]
    inputs: tuple[str, ...]
    differentiable: tuple[str, ...]
    floats: tuple[int, int]
    backward: bool = True


A = ACTIONS
LOSSES = (
    Loss("expectile_loss", expectile_ours, expectile_eager, ("q", "v"), ("v",), (2, 3)),
    Loss(
        "expectile_loss, min of 2",
        expectile_of_two_ours,
        expectile_of_two_eager,
        ("q1", "q2", "v"),
        ("v",),
        (3, 4),
    ),
    Loss("awr_weights", weights_ours, weights_eager, ("q", "v"), (), (3, 0), backward=False),
    Loss("awr_loss", awr_ours, awr_eager, ("q", "v", "log_prob"), ("log_prob",), (4, 2)),
    Loss(
        "gaussian_awr_loss",
        gaussian_ours,
        gaussian_eager,
        ("q", "v", "mean", "log_std", "action"),
        ("mean", "log_std"),
        (3 + 2 * A, 1 + 3 * A),
    ),
    Loss(
        "twin_q_loss",
        twin_q_ours,
        twin_q_eager,
        ("q1", "q2", "r", "mask", "next_v"),
        ("q1", "q2"),
        (5, 7),
    ),
)


def loss_cases(loss: Loss, n: int) -> list[Case]:
    """The forward pass without gradient, and forward and backward."""
    shapes = {"mean": (n, A), "action": (n, A), "log_std": (A,)}
    inputs = [
        numbers(*shapes.get(name, (n,)), seed=i, grad=name in loss.differentiable)
        for i, name in enumerate(loss.inputs)
    ]
    wanted = [x for x in inputs if x.requires_grad]
    functions = {"iql_fast": loss.ours, "eager": loss.eager}

    def forward(function: Callable[..., Tensor]) -> Call:
        def call() -> Tensor:
            with torch.no_grad():
                return function(*inputs)

        return call

    def both(function: Callable[..., Tensor]) -> Call:
        def call() -> Tensor:
            for x in wanted:
                x.grad = None
            loss = function(*inputs)
            loss.backward()
            return loss

        return call

    def results(function: Callable[..., Tensor]) -> Callable[[], Sequence[Tensor]]:
        def call() -> Sequence[Tensor]:
            out = function(*inputs)
            if not wanted:
                return [out]
            return [out.detach(), *torch.autograd.grad(out, wanted)]

        return call

    ahead, back = (4 * n * count for count in loss.floats)
    cases = []
    for name, wrap, moved in (
        ("forward", forward, ahead),
        ("forward + backward", both, ahead + back),
    ):
        if name == "forward" or loss.backward:
            cases.append(
                Case(
                    f"{loss.name}: {name}",
                    n,
                    f"{n:,}",
                    {who: wrap(function) for who, function in functions.items()},
                    {who: results(function) for who, function in functions.items()},
                    moved,
                    loss.eager,
                    wrap,
                    results,
                )
            )
    return cases


def critics(count: int = 2) -> list[Tensor]:
    """The parameters of hopper's critics."""
    nets = nn.ModuleList(mlp(OBSERVATIONS + ACTIONS) for _ in range(count))
    return [p.detach() for p in nets.parameters()]


def mlp(inputs: int, outputs: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, outputs),
    )


def arena(n: int) -> list[Tensor]:
    return [numbers(n)]


def lists_of(make: Callable[[], list[Tensor]], count: int) -> list[list[Tensor]]:
    shapes = [x.shape for x in make()]
    return [
        [numbers(*shape, seed=10 * k + i) for i, shape in enumerate(shapes)] for k in range(count)
    ]


def polyak_case(size: str, make: Callable[[], list[Tensor]]) -> Case:
    targets, params = lists_of(make, 2)
    n = sum(x.numel() for x in targets)

    def ours(to: list[Tensor]) -> None:
        ops.polyak_update_(to, params, ALPHA)

    def eager(to: list[Tensor]) -> None:
        with torch.no_grad():
            for target, param in zip(to, params, strict=True):
                target.data.copy_((1 - ALPHA) * target.data + ALPHA * param.data)

    def foreach(to: list[Tensor]) -> None:
        with torch.no_grad():
            torch._foreach_lerp_(to, params, ALPHA)

    return in_place_case("polyak_update_", size, n, targets, [ours, eager, foreach], 12 * n)


def in_place_case(
    operation: str,
    size: str,
    n: int,
    tensors: list[Tensor],
    updates: Sequence[Callable[[list[Tensor]], None]],
    moved: int,
) -> Case:
    names = {"ours": "iql_fast"}

    def result(update: Callable[[list[Tensor]], None]) -> Callable[[], Sequence[Tensor]]:
        def call() -> Sequence[Tensor]:
            fresh = copy.deepcopy(tensors)
            update(fresh)
            return fresh

        return call

    return Case(
        operation,
        n,
        size,
        {names.get(u.__name__, u.__name__): (lambda u=u: u(tensors)) for u in updates},
        {names.get(u.__name__, u.__name__): result(u) for u in updates},
        moved,
    )


def adam_case(size: str, make: Callable[[], list[Tensor]]) -> Case:
    """Adam, then Polyak: each contender has parameters, gradients and targets of its own."""

    def contender(
        build: Callable[[list[Tensor], list[Tensor]], Call],
    ) -> tuple[Call, Callable[[], Sequence[Tensor]]]:
        def fresh() -> tuple[list[Tensor], list[Tensor], Call]:
            weights, gradients, targets = lists_of(make, 3)
            params = [w.requires_grad_() for w in weights]
            for param, gradient in zip(params, gradients, strict=True):
                param.grad = gradient
            return params, targets, build(params, targets)

        def result() -> Sequence[Tensor]:
            params, targets, step = fresh()
            for _ in range(3):
                step()
            return [*(p.detach() for p in params), *targets]

        return fresh()[2], result

    def ours(params: list[Tensor], targets: list[Tensor]) -> Call:
        return ops.FusedAdam(params, lr=LEARNING_RATE, targets=targets, polyak=ALPHA).step

    def torchs(params: list[Tensor], targets: list[Tensor], **options: bool) -> Call:
        optimizer = torch.optim.Adam(params, lr=LEARNING_RATE, **options)

        def step() -> None:
            optimizer.step()
            with torch.no_grad():
                torch._foreach_lerp_(targets, params, ALPHA)

        return step

    built = {
        "iql_fast": contender(ours),
        "eager": contender(lambda p, t: torchs(p, t)),
        "foreach": contender(lambda p, t: torchs(p, t, foreach=True)),
        "fused": contender(lambda p, t: torchs(p, t, fused=True)),
    }
    n = sum(x.numel() for x in make())
    return Case(
        "FusedAdam + Polyak",
        n,
        size,
        {name: pair[0] for name, pair in built.items()},
        {name: pair[1] for name, pair in built.items()},
        4 * n * 9,  # weight, two moments and target read and written, the gradient read
    )


def sample_case(n: int, rows: int = 1_000_000) -> Case:
    widths = (OBSERVATIONS, ACTIONS, 0, 0, OBSERVATIONS)
    columns = [torch.zeros(*([rows, width] if width else [rows])) for width in widths]
    for column in columns:
        column.uniform_()
    state = torch.tensor([0, 0])

    def ours() -> list[Tensor]:
        return ops.sample_batch(columns, n, state)

    def eager() -> list[Tensor]:
        drawn = torch.randint(rows, (n,))
        return [column[drawn] for column in columns]

    fixed = torch.arange(n)
    return Case(
        "sample_batch",
        n,
        f"{n:,}",
        {"iql_fast": ours, "eager": eager},
        {
            "iql_fast": lambda: torch.ops.iql_fast.gather_rows(columns, fixed),
            "eager": lambda: [column[fixed] for column in columns],
        },
        2 * 4 * n * sum(width or 1 for width in widths),
    )


def ensemble_cases(n: int) -> list[Case]:
    """Twin critics on a batch of n."""
    nets = [mlp(OBSERVATIONS + ACTIONS) for _ in range(2)]
    ensemble = ops.EnsembleMLP.from_sequentials(nets)
    x = numbers(n, OBSERVATIONS + ACTIONS)
    plain = [p for net in nets for p in net.parameters()]

    def ours() -> Tensor:
        return ensemble(x)

    def eager() -> Tensor:
        return torch.stack([net(x) for net in nets])

    def forward(function: Call) -> Call:
        def call() -> Tensor:
            with torch.no_grad():
                return function()

        return call

    def both(function: Call, params: list[Tensor]) -> Call:
        def call() -> None:
            for param in params:
                param.grad = None
            function().sum().backward()

        return call

    own = list(ensemble.parameters())
    checks: dict[str, Callable[[], Sequence[Tensor]]] = {
        "iql_fast": lambda: [ours().detach()],
        "eager": lambda: [eager().detach()],
    }
    weights = sum(p.numel() for p in plain)
    return [
        Case(
            "EnsembleMLP: forward",
            n,
            f"{n:,}",
            {"iql_fast": forward(ours), "eager": forward(eager)},
            checks,
            4 * (weights + x.numel() + 2 * n),
        ),
        Case(
            "EnsembleMLP: forward + backward",
            n,
            f"{n:,}",
            {"iql_fast": both(ours, own), "eager": both(eager, plain)},
            checks,
            4 * (3 * weights + 2 * x.numel() + 4 * n),
        ),
    ]


def cases(sizes: Sequence[int]) -> list[Case]:
    """Everything, at these sizes and for the paper's lists of parameters."""
    made = [case for n in sizes for loss in LOSSES for case in loss_cases(loss, n)]
    lists: dict[str, Callable[[], list[Tensor]]] = {"twin critics": critics}
    lists |= {f"{n:,}, flat": (lambda n=n: arena(n)) for n in sizes}
    made += [polyak_case(size, make) for size, make in lists.items()]
    made += [adam_case(size, make) for size, make in lists.items()]
    made += [sample_case(n) for n in sizes if n <= 65_536]
    made += [case for n in sizes if n <= 4096 for case in ensemble_cases(n)]
    return made
