"""What a training run is asked to do: one dataclass, the command line's and the run's record."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import tyro

from iql_fast import data, methods
from iql_fast.data.transform import Rewards as RewardRule
from iql_fast.data.transform import RewardTransform
from iql_fast.engines import PER_SEED, Hyperparameters, NetworkSpec, Precision, Stage
from iql_fast.methods.base import Method
from iql_fast.methods.ranges import RANGES, fault
from iql_fast.runs import loggers
from iql_fast.runs.method_options import (
    SHARED,
    OwnSettings,
    check_rewards,
    default_of,
    given_for_others,
    learner,
    per_seed_options,
    values_by_method,
)
from iql_fast.runs.option_values import typed
from iql_fast.support.errors import UserError
from iql_fast.support.yaml_files import read_mapping
from iql_fast.tasks import catalogue, presets
from iql_fast.tasks.catalogue import Physics
from iql_fast.tasks.presets import Family, Preset

OneOrPerSeed = tuple[float, ...]


def _by_preset(setting: str) -> Any:
    """What --help says of a setting whose default is the preset's."""
    return tyro.conf.arg(help_behavior_hint=f"(default: {presets.values_of(setting)})")


def _by_method(setting: str) -> Any:
    """What --help says of a setting whose default is the method's."""
    return tyro.conf.arg(help_behavior_hint=f"(default: {values_by_method(setting)})")


@dataclass(frozen=True)
class Algorithm:
    """Settings of IQL and those that methods share. Where one is left out, the preset's or the
    method's value is taken. Those that take several values take one a seed, so that one run sweeps
    them."""

    expectile: Annotated[OneOrPerSeed, _by_preset("expectile")] = ()
    """tau of the value loss, in (0, 1) (paper, equation 5)"""
    temperature: Annotated[OneOrPerSeed, _by_preset("temperature")] = ()
    """beta, the inverse temperature of the policy extraction (equation 7)"""
    discount: Annotated[OneOrPerSeed, _by_method("discount")] = ()
    """gamma"""
    polyak: Annotated[OneOrPerSeed, _by_method("polyak")] = ()
    """step of the target critics towards the critics"""
    weight_clip: OneOrPerSeed = (100.0,)
    """upper bound on exp(beta * advantage)"""
    value_lr: Annotated[OneOrPerSeed, _by_method("value_lr")] = ()
    """Adam's learning rate for V"""
    critic_lr: Annotated[OneOrPerSeed, _by_method("critic_lr")] = ()
    """Adam's learning rate for the critics"""
    actor_lr: Annotated[OneOrPerSeed, _by_method("actor_lr")] = ()
    """Adam's learning rate for the actor, at the start of its schedule"""
    actor_schedule: Literal["cosine", "constant"] = "cosine"
    """cosine falls to 0 over the run, for methods whose rate does so"""
    batch_size: Annotated[int | None, _by_method("batch_size")] = None
    """transitions a step"""
    hidden: Annotated[tuple[int, ...] | None, _by_method("hidden")] = None
    """units of the hidden layers of every network"""
    critics: Annotated[int | None, _by_method("critics")] = None
    """Q networks, whose minimum the target takes"""
    actor_dropout: Annotated[float | None, _by_preset("actor_dropout")] = None
    """probability of dropping a hidden unit of the actor, in training only"""


@dataclass(frozen=True)
class Departures:
    """Departures from the authors' code: off by default, and named in the run's record."""

    value_order: Literal["new", "old"] = "new"
    """old: every loss reads the V from before the step, as CORL does; new: the authors' order"""
    extraction: Literal["joint", "after"] = "joint"
    """after: V and the critics for all steps first, then the policy for as many from those two as
    they stand, as the paper's algorithm 1 is written; joint: all in every step, the authors' way"""
    deterministic_policy: bool = False
    """regress tanh(mean) on the actions instead of maximising a Gaussian likelihood"""
    normalize_obs: bool = False
    """scale observations to mean 0 and standard deviation 1 over the dataset"""


@dataclass(frozen=True)
class Rewards:
    """What is done to the rewards before training: reward' = scale * reward + shift. The authors
    scale locomotion's so that returns differ by 1000, and lower AntMaze's by 1."""

    reward_transform: RewardTransform = "authors"
    """the authors' scale and shift for the preset, or none: 1 and 0"""
    reward_scale: float | None = None
    """scale in place of the transform's"""
    reward_shift: float | None = None
    """shift in place of the transform's"""


@dataclass(frozen=True)
class Evaluation:
    """Scores in the simulator while training goes on."""

    eval_episodes: int | None = None
    """episodes a seed each time (default: the authors' for the task); 0 switches evaluation off"""
    eval_interval: int | None = None
    """steps from one evaluation to the next (default: the authors')"""
    eval_workers: int | None = None
    """worker processes (default: all cores, but for one where training goes on beside them on
    another device); scores do not depend on it"""
    eval_beside: Literal["auto", "always", "never"] = "auto"
    """whether training goes on while episodes run, which changes no result. auto: where they do not
    compete for cores, which is on a CUDA device, and on the CPU where --threads and --eval-workers
    are together at most the number of cores"""


@dataclass(frozen=True)
class Online:
    """Fine-tuning in the environment, which follows on the training with the dataset: of IQL, AWAC
    and CQL. Its loop is the authors': a step in the environment, with an action sampled from the
    policy, an update, and so on; see `python -m iql_fast.finetune --help`."""

    online_steps: int = 0
    """updates after those of --steps, in the environment; 0: none"""
    capacity: int = 2_000_000
    """transitions that are kept of the dataset and the environment, first in, first out"""
    env_steps_per_update: int = 1
    """steps in the environment for one update"""
    envs: int = 1
    """environments of each seed, which take its steps in turn; with N of them a transition joins
    the replay N - 1 steps after its action was chosen (1: at once, the authors' loop)"""


@dataclass(frozen=True)
class Records:
    """What is written, and how often."""

    log_interval: int = 1000
    """steps that one row of metrics.csv is averaged over"""
    checkpoint_interval: int = 10_000
    """steps from one checkpoint to the next"""
    log: tuple[str, ...] = ()
    """trackers beside metrics.csv and TensorBoard: wandb, mlflow, trackio (docs/logging.md)"""


@dataclass(frozen=True)
class TrainConfig:
    """Train a policy on a dataset, by IQL or another method, and score it.

    The data are found in the cache, downloaded, or regenerated in the simulator. Everything about
    the run goes to one folder; a run that was stopped goes on with --resume.
    """

    task: str = ""
    """task, such as hopper-medium-v2 (`python -m iql_fast.data list` shows all), a Minari id, or a
    single task of OGBench's"""
    dataset: Path | None = None
    """your own file, instead of the task's or with no task: .hdf5, .npz or .parquet with
    observations, actions, rewards and terminals, or a LeRobot folder. `python -m iql_fast.data info
    FILE` says how it is understood"""
    env: str = ""
    """Gymnasium id of the environment that scores data which name none"""
    reference: tuple[float, float] | None = None
    """returns that score 0 and 100, of data without a task"""
    preset: Family | None = None
    """family whose settings are taken where none are given (default: the task's, or the one that
    the name of the data tells)"""
    out: Path | None = None
    """folder of the run (default: runs/TASK-DATE-TIME)"""
    overwrite: bool = False
    """replace the run that --out already holds"""
    resume: Path | None = None
    """go on with the run in this folder; no other option is needed"""
    config: Path | None = None
    """YAML file of option names and values; the command line overrides it"""
    offline: bool = False
    """do not try to download the dataset"""
    data_seed: int = 0
    """seed of regenerated data"""
    physics: Physics = "d4rl"
    """mechanics that policies are scored in and data regenerated in. d4rl: of the MuJoCo that made
    D4RL's data and reference scores; gymnasium: of the installed MuJoCo, for locomotion only. A
    Minari id keeps those of the environment that it names"""
    method: Literal[methods.NAMES] = "iql"  # type: ignore[valid-type]
    """what is learned; engines cuda and cpu have IQL alone"""
    steps: Annotated[int | None, _by_method("usual_steps")] = None
    """updates of each network"""
    seeds: int = 1
    """networks to train at once, each with its own seed"""
    seed: int = 0
    """the first seed; the others count up from it"""
    engine: Literal["auto", "cuda", "graph", "cpu", "reference"] = "auto"
    """auto takes the first that works here, for networks of that size, and says which; graph is
    torch under a CUDA graph, for devices and sizes that cuda does not take"""
    precision: Precision = "fp32"
    """of the training arithmetic; mixed (engine cpu) rounds the operands of the large products to
    bf16, bf16x3 (engine cuda) splits them into two bf16 each and is almost as exact as fp32, tf32
    (engine cuda) rounds them to 10 bits of mantissa, as XLA does by default on such devices"""
    threads: int = 0
    """CPU threads (0: all cores); results do not depend on it with the engine cpu"""
    algorithm: Algorithm = field(default_factory=Algorithm)
    own: Annotated[OwnSettings, tyro.conf.arg(name="single methods")] = field(
        default_factory=OwnSettings
    )
    departures: Departures = field(default_factory=Departures)
    rewards: Rewards = field(default_factory=Rewards)
    evaluation: Evaluation = field(default_factory=Evaluation)
    online: Online = field(default_factory=Online)
    records: Records = field(default_factory=Records)

    @property
    def seed_list(self) -> tuple[int, ...]:
        return tuple(range(self.seed, self.seed + self.seeds))

    @property
    def chosen_preset(self) -> Preset:
        """Whose settings are taken where none are given, and why."""
        if self.preset is not None:
            return Preset(self.preset, "--preset")
        return data.preset_of(self.task)

    @property
    def reward_rule(self) -> RewardRule:
        """What is done to the rewards."""
        r, method = self.rewards, methods.get(self.method)
        if self.method != "iql" and r.reward_transform == "authors":
            # Theirs are IQL's; the others train on rewards as they are, but for these.
            scale, shift = (
                method.antmaze_rewards if self.chosen_preset.family == "antmaze" else (1.0, 0.0)
            )
            return RewardRule(
                "none",
                scale if r.reward_scale is None else r.reward_scale,
                shift if r.reward_shift is None else r.reward_shift,
            )
        return RewardRule(r.reward_transform, r.reward_scale, r.reward_shift)

    @property
    def updates(self) -> int:
        """Of each network."""
        return methods.get(self.method).usual_steps if self.steps is None else self.steps

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Which networks are trained when."""
        if self.departures.extraction == "joint":
            return (Stage(),)
        return (Stage(("value", "critic"), self.updates), Stage(("actor",)))

    @property
    def total_steps(self) -> int:
        """Training steps of all stages."""
        return self.updates * len(self.stages) + self.online.online_steps

    @property
    def seam(self) -> int | None:
        """The step after which training goes on in the environment; None where it does not."""
        return self.updates if self.online.online_steps else None

    @property
    def schedule_steps(self) -> int:
        """Over which the actor's rate falls; 0 where it does not."""
        return self.updates if self.algorithm.actor_schedule == "cosine" else 0

    def learner(self) -> Method:
        """What is learned, with its settings."""
        if self.method == "iql":
            return self.hyperparameters()
        shared = {name: getattr(self.algorithm, name) for name in SHARED}
        made = learner(self.method, shared, self.own, self.schedule_steps)
        return made.over(self.updates).for_task(self.task)

    @property
    def normalizes(self) -> bool:
        """Whether observations are scaled by the data's own mean and deviation."""
        by_method = self.learner().normalizes(self.chosen_preset.family)
        return self.departures.normalize_obs or by_method

    def hyperparameters(self) -> Hyperparameters:
        """IQL's settings."""
        a = self.algorithm
        values: dict[str, Any] = {}
        for name in PER_SEED:
            given = getattr(a, name)
            values[name] = given[0] if len(given) == 1 else given
        return Hyperparameters(
            **values,
            actor_schedule_steps=self.schedule_steps,
            batch_size=a.batch_size or Hyperparameters.batch_size,
            actor_dropout=a.actor_dropout or 0.0,
            value_order=self.departures.value_order,
            deterministic_policy=self.departures.deterministic_policy,
            stages=self.stages,
        )

    def network(self, obs_dim: int, act_dim: int) -> NetworkSpec:
        """Sizes of the networks."""
        a = self.algorithm
        critics = a.critics or NetworkSpec.critics
        return NetworkSpec(obs_dim, act_dim, a.hidden or NetworkSpec.hidden, critics)


#: The groups of TrainConfig, whose options carry no prefix.
GROUPS = ("algorithm", "own", "departures", "rewards", "evaluation", "online", "records")
#: Options that do not change what a run computes, so a resumed run may change them.
FREE = ("threads", "eval_workers", "eval_beside", "resume", "overwrite", "config", "out", "offline",
        "log")  # fmt: skip


def of_record(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a run's record; what is younger than the run is what it did without."""
    task = options.get("task", "")
    in_gymnasium = task in catalogue.names() and "gymnasium" in catalogue.get(task).gym_ids
    younger = {"physics": "gymnasium" if in_gymnasium else "d4rl", "method": "iql"}
    return {**flat(TrainConfig()), **younger, **options}


def flat(config: TrainConfig) -> dict[str, Any]:
    """Option name -> value, as JSON holds them."""
    values = asdict(config)
    for group in GROUPS:
        values |= values.pop(group)
    return {
        name: str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple)
        else value
        for name, value in values.items()
    }  # fmt: skip


def with_options(config: TrainConfig, options: dict[str, Any], where: str) -> TrainConfig:
    """``config`` with options by name, as YAML or JSON holds them.

    Raises:
        UserError: an option does not exist or has the wrong type; names it and ``where`` it stands.
    """
    known = flat(config)
    for name in options:
        if str(name).replace("-", "_") not in known:
            near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.4)
            hint = f" The nearest: {', '.join(near)}." if near else ""
            raise UserError(f"{where}: there is no option {name!r}.{hint}")
    spelled = [str(name).replace("-", "_") for name in options]
    if twice := [name for name in spelled if spelled.count(name) > 1]:
        raise UserError(f"{where}: {twice[0]} stands there twice.")
    options = dict(zip(spelled, options.values(), strict=True))
    for group in (*GROUPS, None):
        part: Any = config if group is None else getattr(config, group)
        changes = {
            name: typed(name, options[name], hint, where)
            for name, hint in get_type_hints(type(part)).items()
            if name in options
        }
        part = replace(part, **changes)
        config = part if group is None else replace(config, **{group: part})
    return config


def parse(
    arguments: Sequence[str],
    base: TrainConfig | None = None,
    program: str = "python -m iql_fast.train",
    description: str | None = None,
) -> TrainConfig:
    """The command line's options over those of ``base`` and of --config FILE."""
    base = base or TrainConfig()
    file = _value_of("--config", arguments)
    if file is not None:
        base = with_options(base, _read_file(Path(file)), file)
    return tyro.cli(
        TrainConfig,
        args=list(arguments),
        default=base,
        prog=program,
        description=description,
        config=(tyro.conf.OmitArgPrefixes,),
    )


def _value_of(flag: str, arguments: Sequence[str]) -> str | None:
    for i, argument in enumerate(arguments):
        if argument == flag and i + 1 < len(arguments):
            return arguments[i + 1]
        if argument.startswith(flag + "="):
            return argument.partition("=")[2]
    return None


def _read_file(path: Path) -> dict[str, Any]:
    content = read_mapping(path, f"--config {path}")
    for name in ("config", "resume"):
        if name in content:
            raise UserError(f"--config {path}: {name} belongs on the command line.")
    return content


def completed(config: TrainConfig) -> TrainConfig:
    """``config`` with the authors' values for its task in place of what was left out, checked.

    Raises:
        UserError: a value is out of its range; names the option, the value and the range.
    """
    config = with_options(config, flat(config), "TrainConfig")  # from Python they may be anything
    _check_source(config)
    family, method = config.chosen_preset.family, methods.get(config.method)
    preset = presets.PRESETS[family]
    episodes, interval = method.evaluation or presets.EVALUATION[family]
    a, e = config.algorithm, config.evaluation
    if config.records.log_interval < 1:  # before it divides anything
        raise UserError(
            f"--log-interval is {config.records.log_interval}; expected a positive number."
        )
    algorithm = replace(a, **_left_out(config, preset))
    # Evaluations fall on the grid of the log; a short run is still scored at its end.
    evaluation = replace(
        e,
        eval_episodes=episodes if e.eval_episodes is None else e.eval_episodes,
        eval_interval=math.ceil(interval / config.records.log_interval)
        * config.records.log_interval
        if e.eval_interval is None
        else e.eval_interval,
    )
    # Absolute: a run may be resumed from another folder.
    dataset = None if config.dataset is None else config.dataset.expanduser().absolute()
    records = replace(config.records, log=loggers.named(config.records.log))
    config = replace(config, algorithm=algorithm, evaluation=evaluation, records=records)
    config = replace(config, dataset=dataset, steps=config.updates)
    _check(config)
    return config


def _left_out(config: TrainConfig, preset: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that were not given and that the method has, with its values for them.

    Raises:
        UserError: one was given that the method has not.
    """
    method, given, left_out = (
        methods.get(config.method),
        vars(config.algorithm),
        vars(Algorithm()),
    )
    found: dict[str, Any] = {}
    for name in given.keys() - {"actor_schedule"}:
        shared = config.method == "iql" or name in SHARED
        default = default_of(method, name) if shared else None
        if default is None:
            if given[name] != left_out[name]:
                flag = "--" + name.replace("_", "-")
                raise UserError(f"{flag}: --method {config.method} has no such setting.")
        elif given[name] == left_out[name]:
            value = preset.get(name, default) if config.method == "iql" else default
            several = name in method.per_seed_names()
            found[name] = (value,) if several and not isinstance(value, tuple) else value
    if option := given_for_others(vars(config.own), config.method):
        raise UserError(f"{option} is of another method than --method {config.method}.")
    if config.method != "iql" and config.departures != Departures(
        normalize_obs=config.departures.normalize_obs
    ):
        raise UserError("--value-order, --extraction and --deterministic-policy are IQL's.")
    check_rewards(config.method, config.rewards.reward_scale, config.rewards.reward_shift)
    return found


def _check_source(config: TrainConfig) -> None:
    """Raise a ``UserError`` where there is nothing to train on, or options for other data."""
    if not config.task and config.dataset is None:
        raise UserError(
            "Say what to train on: --task NAME, --dataset FILE, or --resume RUN. "
            "`python -m iql_fast.data list` shows the tasks."
        )
    if config.task and not data.is_others(config.task, config.dataset):
        catalogue.get(config.task).environment_id(config.physics)
        if config.env or config.reference:
            option = "--env" if config.env else "--reference"
            raise UserError(
                f"{option} is for data without a task: {config.task} has its own environment and "
                "reference returns. Leave out --task, or this."
            )
    if config.reference is not None:
        low, high = (*config.reference, math.nan, math.nan)[:2]
        if len(config.reference) != 2 or not (math.isfinite(high - low) and low < high):
            raise UserError(
                f"--reference is {config.reference}; expected two returns, the first the lower."
            )


def _check(config: TrainConfig) -> None:
    values = flat(config)

    def require(right: bool, name: str, expected: str) -> None:
        if not right:
            flag = "--" + name.replace("_", "-")
            raise UserError(f"{flag} is {values[name]}; expected {expected}.")

    for name in ("steps", "seeds", "log_interval", "checkpoint_interval"):
        require(values[name] >= 1, name, "a positive number")
    require(0 <= config.seed < 2**63 - config.seeds, "seed", "at least 0 and below 2^63")
    require(config.threads >= 0, "threads", "a number of at least 0")
    per_seed = per_seed_options(config.method)
    for name, value in (vars(config.algorithm) | vars(config.own)).items():
        if value is None or (value == () and name in PER_SEED):  # the method has no such setting
            continue
        if name in per_seed:
            expected = f"one value, or one for each of {config.seeds}"
            require(len(value) in (1, config.seeds), name, expected)
        if name in RANGES and (wrong := fault(name, values[name])):
            require(False, name, wrong.removeprefix("expected "))
    if not config.learner().acts(config.total_steps):
        raise UserError(
            f"--method {config.method} has no policy yet after --steps {config.updates}: it is "
            "first trained later than that. Take more steps, or let the policy begin earlier."
        )
    require(values["online_steps"] >= 0, "online_steps", "a number of at least 0")
    for name in ("capacity", "env_steps_per_update", "envs"):
        require(values[name] >= 1, name, "a positive number")
    if config.online.online_steps:
        _check_online(config)
    for name in ("reward_scale", "reward_shift"):
        require(values[name] is None or math.isfinite(values[name]), name, "a finite number")
    require(
        values["reward_scale"] is None or values["reward_scale"] > 0, "reward_scale", "positive"
    )
    require(values["eval_episodes"] >= 0, "eval_episodes", "a number of at least 0")
    workers = values["eval_workers"]
    require(workers is None or workers >= 1, "eval_workers", "a positive number")
    require(config.data_seed >= 0, "data_seed", "a number of at least 0")
    for name in ("eval_interval", "checkpoint_interval"):
        multiple = values[name] >= 1 and values[name] % config.records.log_interval == 0
        require(multiple, name, f"a multiple of --log-interval ({config.records.log_interval})")


def _check_online(config: TrainConfig) -> None:
    """Raise a ``UserError`` where what is asked for cannot be fine-tuned."""
    if not methods.get(config.method).explores:
        able = ", ".join(name for name in methods.NAMES if methods.get(name).explores)
        raise UserError(
            f"--online-steps: --method {config.method} is not fine-tuned; these are: {able}."
        )
    if config.method == "iql" and config.algorithm.actor_schedule != "constant":
        raise UserError(
            "--online-steps: the policy's learning rate would have fallen to 0 before they begin. "
            "Add --actor-schedule constant, as the authors do."
        )
    if config.departures.extraction != "joint" or config.departures.deterministic_policy:
        raise UserError(
            "--online-steps: leave out --extraction after and --deterministic-policy. Fine-tuning "
            "trains all networks in every step, and samples actions from the policy."
        )


def check_same(
    resumed: Mapping[str, Any], stored: Mapping[str, Any], free: tuple[str, ...]
) -> None:
    """Raise a ``UserError`` where a resumed run is asked for something else than it began with."""
    before = of_record(stored)
    changed = [
        f"--{name.replace('_', '-')} {value} (the run has {before.get(name)})"
        for name, value in resumed.items()
        if name not in free and value != before.get(name)
    ]
    if changed:
        raise UserError(
            f"A resumed run cannot change {'; '.join(changed)}: its end would not be the one it "
            "was begun for. Leave these out, or start a new run."
        )
