"""Expectiles by the package's kernel against expectiles found without it."""

import json
from fractions import Fraction

import numpy as np
import pytest

from iql_fast.experiments import expectile, expectiles


def sorted_expectile(values, probabilities, tau):
    """In exact arithmetic: the one candidate, among those for each number of outcomes below the
    expectile, that has that many outcomes below it."""
    tau = Fraction(tau)
    pairs = sorted((Fraction(x), Fraction(p)) for x, p in zip(values, probabilities, strict=True))
    for below in range(len(pairs) + 1):
        slopes = [(1 - tau if i < below else tau) * p for i, (_, p) in enumerate(pairs)]
        total = sum(slopes)
        if not total:
            continue
        m = sum(w * x for w, (x, _) in zip(slopes, pairs, strict=True)) / total
        if all((x < m) == (i < below) for i, (x, _) in enumerate(pairs)):
            return float(m)
    raise AssertionError("an expectile exists")


@pytest.mark.parametrize("tau", [0.01, 0.3, 0.5, 0.7, 0.95, 0.999])
def test_expectiles_are_those_of_exact_arithmetic(tau):
    rng = np.random.default_rng(0)
    for size in (1, 2, 3, 10, 40):
        values = rng.standard_normal((3, size))
        values[1] = rng.integers(-2, 3, size)  # ties, some of them at the expectile
        values[2] = 7.25  # a constant
        probabilities = rng.dirichlet(np.ones(size), 3)
        found = expectiles.expectile(values, probabilities, tau)
        for row in range(3):
            exact = sorted_expectile(values[row], probabilities[row], tau)
            assert found[row] == pytest.approx(exact, rel=1e-12, abs=1e-12)


def test_slopes_are_the_derivative_of_the_loss():
    u = np.array([-2.0, -0.1, 0.0, 0.1, 3.0])
    assert expectiles.weights(u, 0.9) == pytest.approx([0.1, 0.1, 0.9, 0.9, 0.9])
    step = 1e-6
    slope = (expectiles.loss(u + step, 0.9) - expectiles.loss(u - step, 0.9)) / (2 * step)
    assert expectiles.loss_gradient(u, 0.9) == pytest.approx(slope, abs=2e-6)
    assert expectiles.loss(np.array([-2.0, 3.0]), 0.7) == pytest.approx([0.3 * 4, 0.7 * 9])


def test_a_gaussians_expectiles():
    for tau in expectile.TAUS:
        m = expectile.gaussian_expectile(tau)
        assert m == pytest.approx(-expectile.gaussian_expectile(1 - tau), abs=1e-12)
        # On a fine grid of the distribution, by the method above that knows no Gaussian.
        x = np.linspace(-9, 9, 4001)
        density = np.exp(-(x**2) / 2)
        assert expectiles.expectile(x, density, tau) == pytest.approx(m, abs=1e-5)


def test_the_sample_expectile_is_as_far_off_as_its_standard_error_says():
    rng = np.random.default_rng(1)
    exact = expectile.gaussian_expectile(0.9)
    scores = []
    for _ in range(300):
        found, error = expectile.sample_expectile(rng.standard_normal(1000), 0.9)
        scores.append((found - exact) / error)
    # 300 standardised errors: their spread is 1 within 5 of its own standard errors, 1/sqrt(600).
    assert np.std(scores) == pytest.approx(1, abs=5 / np.sqrt(600))


def test_the_command_writes_its_picture_and_numbers(command, tmp_path):
    result = command("experiments", "expectile", "--out", "here", "--samples", 2000)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "here/expectile.png"
    assert (tmp_path / "here" / "expectile.png").read_bytes().startswith(b"\x89PNG")
    numbers = json.loads((tmp_path / "here" / "expectile.json").read_text())
    assert [row["tau"] for row in numbers["expectiles"]] == list(expectile.TAUS)
    for row in numbers["expectiles"]:
        assert abs(row["gaussian"] - row["gaussian_in_theory"]) < 5 * row["standard_error"]
    conditional = [row["conditional_rms_error"] for row in numbers["expectiles"]]
    assert max(conditional) < 0.1
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == [
        "expectile.json",
        "expectile.png",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--samples", "5"], "--samples is 5; expected at least 100"),
        (["--seed", "-1"], "--seed is -1"),
        (["--out", "/proc/here"], "/proc/here"),
    ],
)
def test_bad_input_is_a_paragraph_and_status_2(command, arguments, message):
    result = command("experiments", "expectile", *arguments)
    assert result.returncode == 2
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
