"""What a sweep is asked to do: a YAML file, checked key by key before anything else happens."""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_type_hints

from iql_fast import methods
from iql_fast.runs import config
from iql_fast.runs.config import TrainConfig
from iql_fast.runs.option_values import typed
from iql_fast.support.errors import UserError
from iql_fast.support.yaml_files import read_mapping

Options = dict[str, Any]

#: Options of a run that a sweep sets itself, and what says the same in a spec.
PLACED = {
    **{"task": "tasks", "dataset": "tasks", "method": "methods", "seeds": "seeds", "seed": "seed"},
    **{"threads": "cores", "eval_workers": "cores", "eval_beside": "cores", "out": "out"},
    **{"resume": "the same command again", "overwrite": "another folder", "config": "options"},
}
#: Options that say what a task's data are, which a task may have of its own.
OF_DATA = ("task", "dataset", "env", "reference", "preset", "data_seed", "physics")


@dataclass(frozen=True)
class Task:
    """Data to train on.

    Attributes:
        name: what the sweep calls them.
        options: of a run, by name (``OF_DATA``).
    """

    name: str
    options: Options


@dataclass(frozen=True)
class Learner:
    """A method, and the settings that it is trained with.

    Attributes:
        options: that all its runs have.
        settings: those that differ from setting to setting; one empty one where none do.
    """

    method: str
    options: Options = field(default_factory=dict)
    settings: tuple[Options, ...] = ({},)


@dataclass(frozen=True)
class Range:
    """The values of an option among which a search looks.

    Attributes:
        low, high: ends of a range.
        log: whether it is searched in the logarithm.
        choices: values in place of a range.
    """

    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: tuple[Any, ...] = ()

    def ends(self) -> tuple[Any, ...]:
        """Values that are all right where every value is."""
        return self.choices or (self.low, self.high)


@dataclass(frozen=True)
class Search:
    """A search for the settings with the best score, by Optuna.

    Attributes:
        space: option -> values.
        trials: settings that are tried, of each task and method.
        score: of a run: the mean of its last evaluations, the last, or the best.
        sampler: how the next setting is chosen.
        pruner: which trials end before their last step.
        startup: trials that are chosen at random, and that end, before sampler and pruner judge.
    """

    space: Mapping[str, Range]
    trials: int = 20
    score: Literal["final", "last", "best"] = "final"
    sampler: Literal["tpe", "random"] = "tpe"
    pruner: Literal["median", "halving", "none"] = "median"
    startup: int = 5


@dataclass(frozen=True)
class Spec:
    """A sweep: every task by every method with every of its settings, each with ``seeds`` seeds.

    Attributes:
        seeds: of each setting.
        seed: the first; see ``iql_fast.sweeps.packing`` for the others.
        pack: seeds that one job trains at most; those of one setting stay together.
        cores: of a job; None: one on Ray, all in sequence.
        gpus: of a job, which may be a part of one; None: one where the engine asks for one.
        out: the sweep's folder.
    """

    tasks: tuple[Task, ...]
    learners: tuple[Learner, ...]
    seeds: int = 1
    seed: int = 0
    pack: int = 16
    cores: int | None = None
    gpus: float | None = None
    out: Path | None = None
    search: Search | None = None

    def record(self) -> dict[str, Any]:
        """What determines the results, as JSON holds it: where jobs run does not."""
        record = asdict(self)
        for name in FREE:
            record.pop(name)
        return dict(_plain(record))


#: What may differ from one call to the next on the same folder.
FREE = ("out", "cores", "gpus")
#: Keys of a spec -> attributes of ``Spec`` that they become as they stand.
_SIMPLE = ("seeds", "seed", "pack", "cores", "gpus", "out")
KEYS = ("tasks", "methods", "options", "grid", "variants", "search", *_SIMPLE)


def read(path: Path) -> Spec:
    """The sweep that a file asks for.

    Raises:
        UserError: names the key and what is wrong with it.
    """
    return parsed(read_mapping(path, str(path)), str(path), path.parent)


def parsed(content: Mapping[str, Any], where: str, folder: Path = Path()) -> Spec:
    """The sweep that names and values ask for; see ``read``.

    Args:
        where: what errors call them.
        folder: that paths of datasets start from.
    """
    _require_known(content, KEYS, where)
    hints = get_type_hints(Spec)
    simple = {
        name: typed(name, content[name], hints[name], where)
        for name in _SIMPLE
        if content.get(name) is not None
    }
    for name in ("seeds", "pack", "cores"):
        if simple.get(name, 1) < 1:
            raise UserError(f"{where}: {name} is {simple[name]}; expected a positive number.")
    if not math.isfinite(simple.get("gpus", 0)) or simple.get("gpus", 0) < 0:
        raise UserError(f"{where}: gpus is {simple['gpus']}; expected a number of at least 0.")
    search = _search(content["search"], f"{where}: search") if "search" in content else None
    spec = Spec(
        _tasks(content.get("tasks"), f"{where}: tasks", folder),
        tuple(_learners(content, where)),
        search=search,
        **simple,
    )
    if search is not None and any(learner.settings != ({},) for learner in spec.learners):
        raise UserError(f"{where}: a search chooses the settings: leave out grid and variants.")
    for learner in spec.learners:
        for name in search.space if search is not None else ():
            if name in learner.options:
                raise UserError(f"{where}: {name} stands in options and in search.")
    return spec


def base(spec: Spec, task: Task, learner: Learner, where: str) -> TrainConfig:
    """The run of a task and method with the first seeds, its settings left out; not completed."""
    run = replace(TrainConfig(), method=learner.method, seeds=spec.seeds, seed=spec.seed)
    return config.with_options(run, {**learner.options, **task.options}, where)


def _tasks(given: Any, where: str, folder: Path) -> tuple[Task, ...]:
    if not isinstance(given, list) or not given:
        raise UserError(f"{where}: expected a list of one or more tasks, or of data of your own.")
    found = [_task(item, where, folder) for item in given]
    names = [task.name for task in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{where}: {twice[0]} stands there twice; `name` tells two apart.")
    return tuple(found)


def _task(given: Any, where: str, folder: Path) -> Task:
    if isinstance(given, str):
        return Task(given, {"task": given})
    if not isinstance(given, dict):
        raise UserError(f"{where}: {given!r} is neither a task's name nor options of data.")
    _require_known(given, ("name", *OF_DATA), where)
    options = {name: value for name, value in given.items() if name != "name"}
    if "dataset" in options:
        path = typed("dataset", options["dataset"], Path, where).expanduser()
        options["dataset"] = str((folder / path).absolute())
    if not isinstance(given.get("name", ""), str):
        raise UserError(f"{where}: name is {given['name']!r}; expected text.")
    name = given.get("name") or options.get("task") or Path(options.get("dataset", "")).stem
    if not isinstance(name, str) or not name:
        raise UserError(f"{where}: {given!r} has neither `task` nor `dataset`.")
    return Task(name, options)


def _learners(content: Mapping[str, Any], where: str) -> Iterable[Learner]:
    given = content.get("methods", ["iql"])
    if isinstance(given, str):
        given = [given]
    if isinstance(given, list):
        if twice := [name for name in given if given.count(name) > 1]:
            raise UserError(f"{where}: methods: {twice[0]} stands there twice.")
        given = dict.fromkeys(map(str, given))
    if not isinstance(given, dict) or not given:
        raise UserError(f"{where}: methods: expected names, or names with settings of their own.")
    _require_known(given, methods.NAMES, f"{where}: methods", "method")
    shared = {name: content.get(name) for name in ("options", "grid", "variants")}
    for method, own in given.items():
        at = f"{where}: methods: {method}"
        own = {} if own is None else own
        if not isinstance(own, dict):
            raise UserError(f"{at}: expected options, grid or variants.")
        _require_known(own, shared, at)
        options = _options(shared["options"], f"{where}: options")
        options |= _options(own.get("options"), f"{at}: options")
        grid = _grid(shared["grid"], f"{where}: grid") | _grid(own.get("grid"), f"{at}: grid")
        variants = _variants(own.get("variants", shared["variants"]), f"{at}: variants")
        _require_apart(options, grid, variants, at)
        points = itertools.product(*([(name, v) for v in grid[name]] for name in grid))
        settings = [dict(point) | variant for point in points for variant in variants]
        yield Learner(method, options, tuple(settings))


def _require_apart(
    options: Options, grid: Options, variants: Iterable[Options], where: str
) -> None:
    """Raise a ``UserError`` where an option stands at two places, of which one would be lost."""
    places = {
        "options": set(options),
        "grid": set(grid),
        "variants": {name for variant in variants for name in variant},
    }
    for (a, first), (b, second) in itertools.combinations(places.items(), 2):
        if both := sorted(first & second):
            raise UserError(f"{where}: {both[0]} stands in {a} and in {b}. Leave out one.")


def _grid(given: Any, where: str) -> Options:
    grid = _options(given, where)
    for name, values in grid.items():
        if not isinstance(values, list) or not values:
            raise UserError(f"{where}: {name} is {values!r}; expected a list of its values.")
        if twice := [value for value in values if values.count(value) > 1]:
            raise UserError(f"{where}: {name} has {twice[0]} twice.")
    return grid


def _variants(given: Any, where: str) -> list[Options]:
    if given is None:
        return [{}]
    if not isinstance(given, list) or not given:
        raise UserError(f"{where}: expected a list of settings.")
    return [_options(variant, where) for variant in given]


def _options(given: Any, where: str) -> Options:
    """Options of a run by name, spelled with underscores; their values are checked with the run."""
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise UserError(f"{where}: expected lines of the form `option: value`.")
    spelled = {str(name).replace("-", "_"): value for name, value in given.items()}
    if len(spelled) < len(given):
        raise UserError(f"{where}: an option stands there twice.")
    for name in spelled:
        if name in PLACED:
            raise UserError(f"{where}: {name} is not set here but by: {PLACED[name]}.")
    _require_known(spelled, config.flat(TrainConfig()), where, "option")
    return spelled


def _search(given: Any, where: str) -> Search:
    hints = get_type_hints(Search)
    if not isinstance(given, dict):
        raise UserError(f"{where}: expected space and trials.")
    _require_known(given, hints, where)
    space = given.get("space")
    if not isinstance(space, dict) or not space:
        raise UserError(f"{where}: space: expected lines of the form `option: {{low: , high: }}`.")
    ranges = {
        name: _range(value, f"{where}: space: {name}")
        for name, value in _options(space, f"{where}: space").items()
    }
    simple = {
        name: typed(name, value, hints[name], where)
        for name, value in given.items()
        if name != "space"
    }
    found = Search(ranges, **simple)
    for name in ("trials", "startup"):
        if getattr(found, name) < 1:
            raise UserError(
                f"{where}: {name} is {getattr(found, name)}; expected a positive number."
            )
    return found


def _range(given: Any, where: str) -> Range:
    if not isinstance(given, dict):
        raise UserError(f"{where}: expected low and high, or choices.")
    _require_known(given, get_type_hints(Range), where)
    if "choices" in given:
        if set(given) != {"choices"} or not isinstance(given["choices"], list):
            raise UserError(f"{where}: choices is a list, and stands alone.")
        if len(given["choices"]) < 2:
            raise UserError(f"{where}: choices: expected two or more.")
        return Range(choices=tuple(given["choices"]))
    hints = get_type_hints(Range)
    low, high = (typed(name, given.get(name), hints[name], where) for name in ("low", "high"))
    log = typed("log", given.get("log", False), bool, where)
    if low is None or high is None or not -math.inf < low < high < math.inf:
        raise UserError(f"{where}: expected low and high, low the lower.")
    if log and low <= 0:
        raise UserError(f"{where}: low is {low}; a logarithm needs a positive number.")
    return Range(low, high, log)


def _require_known(
    given: Iterable[Any], known: Iterable[str], where: str, called: str = "key"
) -> None:
    """Raise a ``UserError`` that names what is not known, and the nearest of what is."""
    known = list(known)
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.4)
            hint = f" The nearest: {', '.join(near)}." if near else f" Known: {', '.join(known)}."
            raise UserError(f"{where}: there is no {called} {name!r}.{hint}")


def _plain(value: Any) -> Any:
    """With lists for tuples and text for paths, as JSON gives them back."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return str(value) if isinstance(value, Path) else value
