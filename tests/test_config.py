"""Options: presets, YAML, ranges, and errors that say what to do."""

import gymnasium
import pytest

from iql_fast.environments import scoring
from iql_fast.runs import config
from iql_fast.runs.config import Algorithm, TrainConfig
from iql_fast.support.errors import UserError
from iql_fast.tasks import catalogue


def complete(*arguments):
    return config.completed(config.parse(arguments))


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("hopper-medium-v2", (0.7, 3.0, 0.0, 10, 5_000)),
        ("antmaze-large-play-v0", (0.9, 10.0, 0.0, 100, 100_000)),
        ("kitchen-mixed-v0", (0.7, 0.5, 0.1, 10, 5_000)),
        ("pen-human-v1", (0.7, 0.5, 0.1, 10, 5_000)),
        ("pen-binary-v0", (0.8, 3.0, 0.0, 10, 5_000)),
    ],
)
def test_the_authors_values_fill_what_is_left_out(task, expected):
    options = complete("--task", task)
    a, e = options.algorithm, options.evaluation
    values = (*a.expectile, *a.temperature, a.actor_dropout, e.eval_episodes, e.eval_interval)
    assert values == expected


def test_options_override_the_preset_and_yaml(tmp_path):
    file = tmp_path / "options.yaml"
    file.write_text("task: pen-human-v0\nexpectile: 0.8\nsteps: 5000\nhidden: [32, 16]\n")
    options = complete("--config", str(file), "--steps", "7000", "--temperature", "2")
    assert options.task == "pen-human-v0"
    assert options.steps == 7000
    assert options.algorithm.expectile == (0.8,)
    assert options.algorithm.temperature == (2.0,)
    assert options.algorithm.hidden == (32, 16)
    hyper = options.hyperparameters()
    assert (hyper.expectile, hyper.temperature, hyper.actor_schedule_steps) == (0.8, 2.0, 7000)


def test_one_value_for_each_seed():
    options = complete("--task", "hopper-medium-v2", "--seeds", "2", "--expectile", "0.7", "0.9")
    assert options.hyperparameters().expectile == (0.7, 0.9)
    assert options.seed_list == (0, 1)


def test_the_record_gives_the_options_back():
    options = complete("--task", "hopper-medium-v2", "--hidden", "8", "--normalize-obs")
    assert config.with_options(TrainConfig(), config.flat(options), "record") == options


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "hoper-medium-v2"], "nearest names: hopper-medium-v2"),
        ([], "--task NAME"),
        (["--expectile", "1.5"], r"--expectile is \[1.5\]; expected between 0 and 1"),
        (["--expectile", "0.1", "0.2"], "one value, or one for each of 1"),
        (["--steps", "0"], "--steps is 0; expected a positive number"),
        (["--eval-interval", "1500"], r"a multiple of --log-interval \(1000\)"),
        (["--actor-dropout", "1"], "--actor-dropout is 1.0"),
        (["--discount", "nan"], "finite numbers"),
        (["--log-interval", "0"], "--log-interval is 0; expected a positive number"),
        (["--eval-interval", "0"], "--eval-interval is 0; expected a multiple"),
        (["--eval-workers", "0"], "--eval-workers is 0; expected a positive number"),
        (["--seed", "99999999999999999999"], "--seed is 99999999999999999999; expected at least"),
    ],
)
def test_bad_options(arguments, message):
    if arguments and "--task" not in arguments:
        arguments = ["--task", "hopper-medium-v2", *arguments]
    with pytest.raises(UserError, match=message):
        complete(*arguments)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("expectil: 0.8", "no option 'expectil'. The nearest: expectile"),
        ("steps: many", "steps is 'many'; expected a whole number"),
        ("steps: 1.5", "steps is 1.5; expected a whole number"),
        ("steps: .inf", "steps is inf; expected a whole number"),
        ("overwrite: 1", "overwrite is 1; expected true or false"),
        ("precision: half", "precision is 'half'; expected one of fp32, fp64, mixed"),
        ("value_order: older", "value_order is 'older'; expected one of new, old"),
        ("7: 8", "no option 7"),
        ("- steps", "lines of the form"),
        ("a: b: c", "is not YAML"),
    ],
)
def test_bad_yaml(tmp_path, text, message):
    file = tmp_path / "options.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        config.parse(["--config", str(file)])
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 2.5}, "steps is 2.5; expected a whole number"),
        ({"offline": "no"}, "offline is 'no'; expected true or false"),
        ({"physics": "mujoco"}, "physics is 'mujoco'; expected one of d4rl, gymnasium"),
        ({"dataset": 7}, "dataset is 7; expected a path"),
        (
            {"algorithm": Algorithm(hidden=(16, True))},
            r"hidden is \[16, True\]; expected whole",
        ),
        ({"reference": (0.0, 1.0, 2.0)}, "reference is .*; expected 2 numbers"),
    ],
)
def test_options_from_python_pass_the_same_gate(changes, message):
    with pytest.raises(UserError, match=message):
        config.completed(TrainConfig("hopper-medium-v2", **changes))


def test_every_task_has_what_it_needs():
    for name in catalogue.names():
        task = catalogue.get(name)
        assert task.environment.max_score > task.environment.min_score
        where = scoring.of_task(task)
        spec = gymnasium.spec(where.environment)
        assert spec.max_episode_steps == task.environment.horizon
        low, high = where.score(task.environment.min_score), where.score(task.environment.max_score)
        assert (low, high) == pytest.approx((0, 100))
    assert catalogue.get("hopper-medium-v2").published["paper"] == 66.2
    assert "multistart_True_multigoal_False" in catalogue.get("antmaze-medium-play-v0").d4rl_file


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: !!bool x", "is not YAML"),
        ("seed: !!timestamp x", "is not YAML"),
        ("seed: !!int ''", "is not YAML"),
        ('task: "\\ud800"', r"task is '\\ud800'; expected text"),
        (
            "seed: 0x" + 5000 * "f",
            "seed is a number of thousands of digits; expected a whole number",
        ),
        ("hidden: [0x" + 5000 * "f" + "]", "hidden is a number of thousands of digits; expected"),
        ("value-lr: !!set {0.1, 0.2}", "value_lr is .*; expected numbers"),
    ],
)
def test_odd_tags_and_values_of_yaml_are_refused(tmp_path, text, message):
    (tmp_path / "o.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        config.parse(["--config", str(tmp_path / "o.yaml")])


def test_an_empty_list_of_widths_is_not_taken_for_none(tmp_path):
    (tmp_path / "o.yaml").write_text("task: hopper-medium-v2\nhidden: []\n")
    with pytest.raises(UserError, match=r"--hidden is \[\]; expected one or more"):
        complete("--config", str(tmp_path / "o.yaml"))
