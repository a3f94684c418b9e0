"""The contenders of a benchmark: what each is called, and how a process becomes one."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from bench import method_flops, tuning
from bench.rivals import corl
from bench.workload import Workload, flops_a_step
from iql_fast import engines, methods
from iql_fast.methods.base import Method
from iql_fast.support import extension
from iql_fast.support.errors import UserError

#: Precisions that our engine on the CPU is timed in; the rivals there compute in fp32.
PRECISIONS: tuple[engines.Precision, ...] = ("fp32", "mixed")
#: Those of the rivals on a device with tensor cores.
DEVICE_PRECISIONS: tuple[engines.Precision, ...] = ("fp32", "tf32")

#: Order of the square matrices whose product is timed for the floor: the size that most of a step's
#: operations have with the paper's networks and batch.
FLOOR_SIZE = 256


class Unavailable(Exception):
    """A contender cannot run here; the message says why."""


@dataclass(frozen=True)
class Contender:
    """One row of a benchmark.

    Attributes:
        kind: a key of ``KINDS``.
        threads: threads that it computes with, and cores that its process may run on.
        seeds: trained at once, where its kind can.
        precision: one of its kind's.
    """

    kind: str
    threads: int = 1
    seeds: int = 1
    precision: engines.Precision = "fp32"
    workload: Workload = field(default_factory=Workload)

    @property
    def bounds(self) -> bool:
        """Whether it trains nothing, and sets the floor of those with as many threads."""
        return KINDS[self.kind].role == "floor"

    @property
    def title(self) -> str:
        """As tables name it; the columns beside say the rest."""
        return KINDS[self.kind].title

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(record: dict[str, Any]) -> Contender:
        sizes = record["workload"]
        workload = Workload(**{**sizes, "hidden": tuple(sizes["hidden"])})
        return Contender(**{**record, "workload": workload})


@dataclass(frozen=True)
class Runner:
    """A contender that is ready to go.

    Attributes:
        run: does so many units of work, and returns when they are done.
        unit: ``run`` takes multiples of this.
        worth: training steps, over all seeds, that one unit of work stands for.
        active: the share of the hidden units that are active, where that makes a difference.
    """

    run: Callable[[int], object]
    unit: int = 1
    worth: float = 1.0
    active: Callable[[], float | None] = lambda: None


def iql_fast_cuda(contender: Contender, engine: str = "cuda") -> Runner:
    """Our engines on a device. Nothing in them depends on how many units are active."""
    workload = contender.workload
    trained = engines.create(
        engine,
        workload.network,
        workload.hyper,
        workload.transitions(),
        range(contender.seeds),
        precision=contender.precision,
    )
    return Runner(trained.run, unit=50, worth=contender.seeds)  # 50: the steps of its graph


def iql_fast_cpu(contender: Contender) -> Runner:
    """Our engine in C++."""
    import torch

    from bench.activity import active_share
    from iql_fast.engines.sampling import batch_at

    workload = contender.workload
    data = workload.transitions()
    engine = engines.create(
        "cpu",
        workload.network,
        workload.hyper,
        data,
        range(contender.seeds),
        threads=contender.threads,
        precision=contender.precision,
    )

    def active() -> float:
        columns = batch_at(data, engine.seeds, engine.step, workload.batch, torch.float32)
        return active_share({k: x.float() for k, x in engine.state_dict().items()}, columns)

    return Runner(engine.run, worth=contender.seeds, active=active)


def _let_torch_multiply_in(precision: engines.Precision) -> None:
    import torch

    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")


def eager(contender: Contender, device: str = "cpu") -> Runner:
    """Plain eager torch."""
    from bench.rivals.eager import EagerIQL

    _let_torch_multiply_in(contender.precision)
    workload = contender.workload
    rival = EagerIQL(workload.network, workload.hyper, workload.transitions(), device=device)
    return Runner(rival.run)


def compiled(contender: Contender, device: str = "cpu") -> Runner:
    """The update as one graph under torch.compile."""
    from bench.rivals.compiled import CompiledIQL

    _let_torch_multiply_in(contender.precision)
    workload = contender.workload
    rival = CompiledIQL(workload.network, workload.hyper, workload.transitions(), device=device)
    try:
        rival.run(1)
    except Exception as error:  # torch raises whatever its compiler meets
        first = next((line for line in str(error).splitlines() if line.strip()), "")
        raise Unavailable(f"torch.compile failed: {type(error).__name__}: {first}") from error
    return Runner(rival.run)


def jax_scan(contender: Contender) -> Runner:
    """JAX with many steps a call, vmapped over seeds."""
    from bench.rivals.jax_scan import JaxIQL

    workload, seeds = contender.workload, contender.seeds
    rival = JaxIQL(workload.network, workload.hyper, workload.transitions(), seeds=seeds)
    return Runner(rival.run, rival.unit, worth=seeds)


def jax_on_a_device(contender: Contender) -> Runner:
    """The same where JAX multiplies in tf32 unless told otherwise, which is timed as well."""
    if contender.precision == "fp32":
        import jax

        jax.config.update("jax_default_matmul_precision", "highest")
    return jax_scan(contender)


def floor(contender: Contender) -> Runner:
    """Single-precision matrix products of the library, counted in steps of as many operations."""
    import torch

    a, b, out = (torch.randn(FLOOR_SIZE, FLOOR_SIZE) for _ in range(3))

    def run(products: int) -> None:
        for _ in range(products):
            torch.mm(a, b, out=out)

    return Runner(run, worth=2 * FLOOR_SIZE**3 / flops_a_step(contender.workload))


def peak(contender: Contender) -> Runner:
    """Multiplications and additions in registers alone, the most that the cores can do, counted in
    steps of as many operations."""
    multiply_and_add = extension.load().multiply_and_add
    rounds = 100_000  # some tens of microseconds
    cores = ThreadPoolExecutor(contender.threads)
    operations = float(multiply_and_add(rounds))

    def run(times: int) -> None:
        each = rounds * times // contender.threads
        list(cores.map(multiply_and_add, [each] * contender.threads))

    return Runner(run, contender.threads, worth=operations / flops_a_step(contender.workload))


@dataclass(frozen=True)
class Kind:
    """A sort of contender.

    Attributes:
        role: a rival trains IQL; one that trains another method is an other.
        build: makes the calling process one, or raises ``Unavailable``.
        missing: why it cannot run here, as far as can be told without trying; empty if it may.
        slow_to_start: not part of a quick benchmark unless asked for.
        device: where it computes, as ``--device`` of the benchmark names it.
        precisions: that it is timed in.
        many_seeds: it can train several at once.
    """

    title: str
    role: Literal["ours", "rival", "other", "floor"]
    build: Callable[[Contender], Runner]
    missing: Callable[[], str] = lambda: ""
    slow_to_start: bool = False
    device: Literal["cpu", "cuda"] = "cpu"
    precisions: tuple[engines.Precision, ...] = ("fp32",)
    many_seeds: bool = False


def _jax_missing() -> str:
    return "" if importlib.util.find_spec("jax") else "jax is not installed"


def _no_cuda() -> str:
    import torch

    return "" if torch.cuda.is_available() else "torch sees no CUDA device"


def _jax_sees_no_device() -> str:
    if reason := _jax_missing():
        return reason
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # others need memory too
    import jax

    return "" if jax.default_backend() == "gpu" else "jax sees no CUDA device"


#: In the order of the tables.
KINDS: dict[str, Kind] = {
    "floor": Kind("sgemm floor", "floor", floor),
    "peak": Kind("FMA peak", "floor", peak, extension.unavailable_reason),
    "eager": Kind("eager torch", "rival", eager),
    "compile": Kind("torch.compile", "rival", compiled, slow_to_start=True),
    "jax": Kind("JAX lax.scan", "rival", jax_scan, _jax_missing, many_seeds=True),
    "iql_fast": Kind(
        "iql_fast cpu",
        "ours",
        iql_fast_cpu,
        lambda: engines.available()["cpu"],
        precisions=PRECISIONS,
        many_seeds=True,
    ),
    "cuda-eager": Kind(
        "eager torch",
        "rival",
        partial(eager, device="cuda"),
        _no_cuda,
        device="cuda",
        precisions=DEVICE_PRECISIONS,
    ),
    "cuda-compile": Kind(
        "torch.compile",
        "rival",
        partial(compiled, device="cuda"),
        _no_cuda,
        slow_to_start=True,
        device="cuda",
        precisions=DEVICE_PRECISIONS,
    ),
    "cuda-jax": Kind(
        "JAX lax.scan",
        "rival",
        jax_on_a_device,
        _jax_sees_no_device,
        device="cuda",
        precisions=DEVICE_PRECISIONS,
        many_seeds=True,
    ),
    "graph": Kind(
        "iql_fast graph",
        "ours",
        partial(iql_fast_cuda, engine="graph"),
        lambda: engines.available()["graph"],
        device="cuda",
        many_seeds=True,
    ),
    "cuda": Kind(
        "iql_fast cuda",
        "ours",
        iql_fast_cuda,
        lambda: engines.available()["cuda"],
        device="cuda",
        precisions=engines.PRECISIONS["cuda"],
        many_seeds=True,
    ),
}


#: Where a method's sizes in a benchmark are not its own: those of the public trainers.
METHOD_SIZES: dict[str, dict[str, Any]] = {
    "awac": {"actor_hidden": (256, 256, 256), "hidden": (256, 256, 256)},
    "bc": {"actor_dropout": 0.0},
}


def method_of(contender: Contender) -> Method:
    """The method of a contender whose kind is ``method-NAME``, ``cuda-method-NAME``, or
    ``corl-NAME`` for its rival."""
    name = contender.kind.rpartition("-")[2]
    return methods.get(name)(**METHOD_SIZES.get(name, {}))


def any_method(contender: Contender) -> Runner:
    """A method in the engine of any, or DT in its own, over operators."""
    method, workload = method_of(contender), contender.workload
    data = workload.trajectories() if "times" in method.needs else workload.transitions()
    engine = engines.for_method(
        method,
        data,
        range(contender.seeds),
        name="graph",
        precision=contender.precision,
        threads=contender.threads,
        device=KINDS[contender.kind].device,
    )
    return Runner(engine.run, worth=contender.seeds)


KINDS |= {
    f"cuda-method-{name}": Kind(
        methods.get(name).title,
        "ours",
        any_method,
        _no_cuda,
        slow_to_start=True,
        device="cuda",
        precisions=(),
        many_seeds=True,
    )
    for name in method_flops.NAMES
}
KINDS |= {
    f"method-{name}": Kind(
        methods.get(name).title,
        "ours",
        any_method,
        extension.unavailable_reason,
        slow_to_start=True,
        precisions=(),
        many_seeds=True,
    )
    for name in method_flops.NAMES
}


def corl_trainer(contender: Contender) -> Runner:
    """CORL's trainer of a method, with the method's batch."""
    method = method_of(contender)
    rival = corl.CorlTrainer(method.name, contender.workload.transitions(), method.batch_size)
    return Runner(rival.run)


KINDS |= {
    f"corl-{name}": Kind(
        f"CORL {methods.get(name).title}",
        "other",
        corl_trainer,
        partial(corl.missing, name),
        slow_to_start=True,
        precisions=(),
    )
    for name in method_flops.NAMES
}


def _task_of(contender: Contender) -> str:
    """Of a contender whose kind is ``WHAT-TASK``."""
    return contender.kind.rpartition("-")[2]


def fine_tuning(contender: Contender) -> Runner:
    """IQL's fine-tuning, one update for one step of the environment."""
    return Runner(
        tuning.fine_tuning(_task_of(contender), contender.workload, contender.threads).run
    )


def simulation(contender: Contender) -> Runner:
    """The environment alone."""
    return Runner(tuning.Simulation(_task_of(contender)).run)


def corl_fine_tuning(contender: Contender) -> Runner:
    """CORL's fine-tuning of IQL, in the same environment."""
    from iql_fast.environments import workers

    task, sizes = _task_of(contender), contender.workload
    simulator = corl.Simulator(workers.environment(tuning.TASKS[task][0]), tuning.horizon(task))
    return Runner(corl.CorlTrainer("tuning", sizes.transitions(), sizes.batch, simulator).run)


for _task in tuning.TASKS:
    KINDS |= {
        f"tuning-{_task}": Kind(
            "fine-tuning", "other", fine_tuning, lambda: engines.available()["cpu"], precisions=()
        ),
        f"update-{_task}": Kind(
            "update", "other", iql_fast_cpu, lambda: engines.available()["cpu"], precisions=()
        ),
        f"simulator-{_task}": Kind("simulator", "other", simulation, precisions=()),
        f"corl-tuning-{_task}": Kind(
            "CORL fine-tuning",
            "other",
            corl_fine_tuning,
            partial(corl.missing, "tuning"),
            precisions=(),
        ),
    }


def build(contender: Contender) -> Runner:
    """Make the calling process a contender.

    Raises:
        Unavailable: it cannot run here.
    """
    kind = KINDS[contender.kind]
    if reason := kind.missing():
        raise Unavailable(reason)
    try:
        return kind.build(contender)
    except UserError as error:
        raise Unavailable(str(error)) from error
