"""The card of a policy: a README.md whose head a hub of models reads, and whose text people do."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from iql_fast import methods
from iql_fast.policies.portable import Portable
from iql_fast.runs import citations, config
from iql_fast.runs.config import Algorithm, Departures, TrainConfig
from iql_fast.runs.found_scores import Found, Score
from iql_fast.runs.hub_folder import WEIGHTS
from iql_fast.runs.method_options import options_of_others
from iql_fast.support.errors import UserError
from iql_fast.tasks import catalogue

#: Options that say where a run lies or with what means it is trained, not what is trained.
PLACES = (*config.FREE, "dataset", "log_interval", "checkpoint_interval")


class About(NamedTuple):
    """What a card tells of.

    Attributes:
        record: of the run (config.json).
        whole: the policy.
        seed, step: of it.
        scores: of the checkpoint; None where nobody scored it.
        pictures: name of a file in the folder -> what it shows.
    """

    record: Mapping[str, Any]
    whole: Portable
    seed: int
    step: int
    scores: Found | None
    pictures: Mapping[str, str]

    @property
    def method(self) -> str:
        return str(self.record["options"].get("method", "iql"))

    @property
    def data(self) -> str:
        """Title of the data, with what they are where they are not the task's own."""
        return str(self.record["data"]["title"])

    @property
    def task(self) -> str:
        return str(self.record["options"]["task"])

    @property
    def of_the_paper(self) -> bool:
        """Whether the task is one of D4RL's, whoever made its data."""
        return self.task in catalogue.names()

    @property
    def own(self) -> Score | None:
        """The score of this very policy."""
        return None if self.scores is None else self.scores.by_seed.get(self.seed)

    @property
    def unit(self) -> str:
        if self.record["scoring"].get("measure") == "success":
            return "success in %"
        return "return" if self.record["scoring"]["reference"] is None else "normalised score"

    @property
    def name(self) -> str:
        """What the model is called."""
        return f"{self.method}-{_slug(self.data)}"


def text(about: About) -> str:
    """The card."""
    import yaml

    head = yaml.safe_dump(metadata(about), sort_keys=False, allow_unicode=True, width=100)
    parts = [
        _title(about),
        _scores(about),
        _pictures(about),
        _loading(about),
        _training(about),
        _licence(),
        _citation(about),
    ]
    return f"---\n{head}---\n\n" + "\n\n".join(part for part in parts if part) + "\n"


def metadata(about: About) -> dict[str, Any]:
    """The head, as the Hugging Face Hub reads it.

    Without scores it has no ``model-index``.
    """
    d4rls_own = about.record["data"]["origin"] == "d4rl"
    tags = ["reinforcement-learning", "offline-rl", about.method.replace("_", "-")]
    tags += ["d4rl"] if d4rls_own else []
    tags += [_slug(about.task)] if about.task else []
    head = {
        "library_name": "iql-fast",
        "pipeline_tag": "reinforcement-learning",
        "tags": list(dict.fromkeys(tags)),
    }
    if about.own is None:
        return head
    task = {"type": "reinforcement-learning", "name": "offline reinforcement learning"}
    dataset = {"type": _slug(about.data), "name": about.data}
    result = {"task": task, "dataset": dataset, "metrics": _metrics(about, about.own)}
    return head | {"model-index": [{"name": about.name, "results": [result]}]}


def _metrics(about: About, own: Score) -> list[dict[str, Any]]:
    over = f"{own.episodes} episode(s) of seed {about.seed}"
    found = [
        ("mean_return", own.episode_return, f"return, mean over {over}"),
        ("return_std", own.return_std, f"return, standard deviation over {over}"),
    ]
    if about.unit != "return":
        kind = "success_rate" if about.unit == "success in %" else "normalized_score"
        found = [
            (kind, own.score, f"{about.unit}, mean over {over}"),
            (f"{kind}_std", own.score_std, f"{about.unit}, standard deviation over {over}"),
            *found,
        ]
    return [{"type": kind, "value": round(x, 4), "name": name} for kind, x, name in found]


def _title(about: About) -> str:
    title = methods.get(about.method).title
    lines = [
        f"# {title} on {plain(about.data)}",
        f"A policy for continuous control, trained by {title} from logged transitions alone"
        f"{_online(about)}, with iql_fast. It maps an observation of {len(about.whole.obs_mean)} "
        f"numbers to an action of {len(about.whole.act_half)}, both in the environment's own "
        f"units: seed {about.seed}, step {about.step:,}.",
    ]
    if warning := _not_d4rls(about):
        lines.append(f"> **{warning}**")
    return "\n\n".join(lines)


def _online(about: About) -> str:
    steps = about.record["options"].get("online_steps", 0)
    return f", and then by {steps:,} updates in the environment" if steps else ""


def _not_d4rls(about: About) -> str:
    """What keeps a score from being set beside the published ones."""
    data, where = about.record["data"], about.record["scoring"]
    if not about.of_the_paper:
        return ""
    if data["origin"] == "regenerated":
        return (
            f"Trained on regenerated data: {plain(about.task)} was made anew in the simulator, by "
            "behaviour policies of iql_fast. No score here is one on D4RL's dataset, and none "
            "compares with a published one."
        )
    if data["origin"] != "d4rl":
        return (
            f"Trained on data of its author's own ({plain(about.data)}). No score here is one on "
            "D4RL's dataset, and none compares with a published one."
        )
    if where.get("physics") == "gymnasium":
        return (
            "Scored in the mechanics of the installed MuJoCo, not in those of D4RL's reference "
            "scores, so that no score here compares with a published one."
        )
    return ""


def _scores(about: About) -> str:
    if about.scores is None:
        note = about.record["scoring"].get("note")
        why = f": {plain(note)}" if note and about.record["scoring"]["environment"] is None else ""
        return (
            f"## Scores\n\nThis checkpoint was not scored in its environment{why}, so the card "
            "has no model-index."
        )
    by_seed = about.scores.by_seed
    plain_returns = about.unit == "return"
    heading = ["seed", *([] if plain_returns else [about.unit]), "return", "episodes"]
    rows = [heading, ["---:"] * len(heading)]
    for seed, s in by_seed.items():
        own = f"**{seed}** (this policy)" if seed == about.seed and len(by_seed) > 1 else str(seed)
        scored = [] if plain_returns else [f"{s.score:.1f} ± {s.score_std:.1f}"]
        returned = f"{s.episode_return:.1f} ± {s.return_std:.1f}"
        rows.append([own, *scored, returned, str(s.episodes)])
    told = (
        f"Of the mean action at step {about.step:,}: mean ± standard deviation over the episodes "
        f"of {about.scores.how}. {_physics(about)}"
    )
    return f"## Scores\n\n{told}\n\n{_table(rows)}{_over_seeds(about)}{_published(about)}"


def _over_seeds(about: About) -> str:
    import numpy as np

    assert about.scores is not None
    means = [score.score for score in about.scores.by_seed.values()]
    if len(means) < 2:
        return ""
    return (
        f"\n\nOver the {len(means)} seeds of the run: {np.mean(means):.1f} ± {np.std(means):.1f} "
        f"({about.unit})."
    )


def _published(about: About) -> str:
    """Only where they are of the same data in the same mechanics."""
    where = about.record["scoring"].get("published") or {}
    if _not_d4rls(about) or not about.of_the_paper or not where:
        return ""
    listed = ", ".join(f"{plain(source)} {score:.1f}" for source, score in where.items())
    return f"\n\nPublished for {methods.get(about.method).title} on this dataset: {listed}."


def _physics(about: About) -> str:
    where, versions = about.record["scoring"], about.record.get("versions", {})
    if where["environment"] is None:
        return ""
    name = f"`{code(_environment(where['environment']))}`"
    if where.get("physics") == "d4rl":
        mechanics = "the mechanics of MuJoCo 2.0, D4RL's, given back to"
    else:
        mechanics = "the mechanics of"
    reference = where["reference"]
    scale = "" if reference is None else (
        f" Returns of {reference[0]:g} and {reference[1]:g} score 0 and 100."
    )  # fmt: skip
    measure = where.get("measure", "return")
    return (
        f"Environment: {name}, in {mechanics} MuJoCo {plain(versions.get('mujoco', 'unknown'))}, "
        f"episodes of at most {where.get('horizon', 0):,} steps."
        f"{scale if measure == 'return' else ''}"
    )


def _environment(told: str) -> str:
    """The id of an environment, which Minari's data may specify as Gymnasium's JSON."""
    try:
        return str(json.loads(told)["id"])
    except (ValueError, LookupError, TypeError):
        return told


def _pictures(about: About) -> str:
    shown = "\n\n".join(f"![{what}]({name})" for name, what in about.pictures.items())
    return f"## Pictures\n\n{shown}" if shown else ""


def _loading(about: About) -> str:
    last = len(about.whole.layers) - 1
    obs_dim = len(about.whole.obs_mean)
    layout = about.record.get("observation_layout")
    structured = "" if not layout or len(layout) < 2 else (
        "\n\nThe environment's observations are structured; flat, they are the arrays "
        + ", ".join(f"`{code(str(part))}` ({size})" for part, size in layout)
        + ", in this order. `load_policy` takes them as the environment shows them, too."
    )  # fmt: skip
    return f"""## Use

Download the folder (`hf download USER/NAME --local-dir policy`), and with iql_fast installed:

```python
import iql_fast
import numpy as np

policy = iql_fast.load_policy("policy")
action = policy(np.zeros({obs_dim}))  # or a batch [N, {obs_dim}]
```

Or with numpy and safetensors alone:

```python
import numpy as np
from safetensors.numpy import load_file

held = {{k: x.astype(np.float64) for k, x in load_file("policy/{WEIGHTS}").items()}}


def policy(observation):
    h = (observation - held["observation.mean"]) / held["observation.scale"]
    for i in range({last + 1}):
        h = h @ held[f"layers.{{i}}.weight"].T + held[f"layers.{{i}}.bias"]
        h = np.tanh(h) if i == {last} else np.maximum(h, 0)
    return (held["action.middle"] + held["action.half"] * h).astype(np.float32)


action = policy(np.zeros({obs_dim}))
```{structured}"""


def _training(about: About) -> str:
    options, data, versions = (about.record.get(x, {}) for x in ("options", "data", "versions"))
    rows = [["setting", "value"], ["---", "---"]]
    rows += [[f"`{name}`", f"`{code(_shown(x))}`"] for name, x in settings(about.record).items()]
    scale, shift = data.get("reward_scale", 1), data.get("reward_shift", 0)
    returns = data.get("return_mean")
    facts = [
        f"- Data: {plain(about.data)}, {data.get('rows', 0):,} transitions"
        + ("" if returns is None else f", mean return {returns:.1f}")
        + (f"; SHA-256 of their columns `{code(str(data['sha256']))}`" if "sha256" in data else ""),
        f"- Rewards: {scale:.6g} * reward{'' if not shift else f' + {shift:g}'}",
        f"- {options['seeds']} seed(s) from {options['seed']} on, {options['steps']:,} updates, "
        f"engine {plain(about.record['engine'])}, precision {plain(options.get('precision', ''))}",
        "- Versions: " + ", ".join(f"{plain(k)} {plain(x)}" for k, x in versions.items()),
    ]
    again = f"```bash\n{command(about.record)}\n```"
    return (
        "## Training\n\n" + "\n".join(facts) + f"\n\n{_table(rows)}\n\nThe run again:\n\n{again}"
        + _needed_file(about)
    )  # fmt: skip


def _needed_file(about: About) -> str:
    if about.record["data"]["origin"] != "file" or not about.record["options"].get("dataset"):
        return ""
    return "\n\nThe file after `--dataset` is its author's, and is not part of this folder."


def settings(record: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that the method was trained with, by option."""
    options = record["options"]
    others = options_of_others(options.get("method", "iql"))
    named = [f.name for kind in (Algorithm, Departures) for f in fields(kind)]
    own = [name for name in options if name.startswith(f"{options.get('method', 'iql')}_")]
    if options.get("method") == "10bc":
        own = [name for name in options if name.startswith("top_bc_")]
    shown = (name for name in (*named, *own) if name in options and name not in others)
    return {name: options[name] for name in shown if options[name] not in (None, [], False)}


def command(record: Mapping[str, Any]) -> str:
    """The command that trains the run again: what differs from the defaults of its task."""
    options = config.of_record(record["options"])
    base = replace(
        TrainConfig(),
        task=options["task"],
        method=options["method"],
        dataset=Path(options["dataset"]) if options["dataset"] else None,
    )
    try:
        left_out = config.flat(config.completed(base))
    except UserError:
        left_out = config.flat(base)
    always = ("task", "method", "dataset", "steps")
    words = []
    for name, value in options.items():
        given = name in always or value != left_out.get(name)
        if not given or name in config.FREE or value in (None, "", []):
            continue
        flag = f"--{name.replace('_', '-')}"
        if name == "dataset":
            value = Path(str(value)).name
        if isinstance(value, bool):
            words.append(flag if value else flag.replace("--", "--no-", 1))
        else:
            words += [flag, *map(str, value if isinstance(value, list) else [value])]
    return shlex.join(["python", "-m", "iql_fast.train", *words])


def _licence() -> str:
    return (
        "## Licence\n\nNot stated. Whoever publishes this policy adds `license:` to the head of "
        "this file, with one that its data allow."
    )


def _citation(about: About) -> str:
    papers = citations.of(about.method, about.of_the_paper)
    linked = ", ".join(f"[arXiv:{p.arxiv}](https://arxiv.org/abs/{p.arxiv})" for p in papers)
    entries = "\n\n".join(paper.bibtex() for paper in papers)
    return f"## Citation\n\n{linked}\n\n```bibtex\n{entries}\n```"


def _table(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _slug(name: str) -> str:
    """A name as hubs spell them: ``hopper-medium-v2-regenerated``."""
    return re.sub(r"[^a-z0-9._]+", "-", name.lower()).strip("-") or "data"


def plain(words: Any) -> str:
    """Text that somebody gave a file or a record, as Markdown that shows just that."""
    one_line = " ".join(str(words).split())
    return re.sub(r"([\\`*_{}\[\]<>#|!~&])", r"\\\1", one_line)


def code(words: str) -> str:
    """The same between backticks."""
    return " ".join(words.split()).replace("`", "'").replace("|", "\\|")
