"""Figure 1 of the paper: the asymmetric loss, expectiles of a Gaussian, and state-conditional
expectiles of a two-dimensional cloud, computed with the package's own kernel.

Beside each stand the expectiles that the distribution has in theory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from iql_fast.experiments import expectiles
from iql_fast.experiments.expectiles import Array
from iql_fast.support import extension, output
from iql_fast.support.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TAUS = (0.1, 0.3, 0.5, 0.7, 0.9, 0.95, 0.99)


@dataclass
class Expectile:
    """Figure 1: the expectile loss, expectiles of a Gaussian, and expectiles conditional on a
    state, by the package's own kernel, beside what they are in theory."""

    out: Path = Path("experiments")
    """folder of expectile.png and expectile.json"""
    samples: int = 20_000
    """draws from each distribution"""
    seed: int = 0
    """of the draws"""

    def run(self) -> None:
        """Compute, print, draw.

        Raises:
            UserError: too few samples for the fit, or the folder cannot be written.
        """
        if self.samples < 100:
            raise UserError(f"--samples is {self.samples}; expected at least 100.")
        if self.seed < 0:
            raise UserError(f"--seed is {self.seed}; expected at least 0.")
        out = output.Output(self.out, "expectile")
        rng = np.random.default_rng(self.seed)
        sample = rng.standard_normal(self.samples)
        states = rng.uniform(-1, 1, self.samples)
        targets = cloud_mean(states) + cloud_std(states) * rng.standard_normal(self.samples)

        rows, numbers = [], []
        for tau in TAUS:
            found, error = sample_expectile(sample, tau)
            exact = gaussian_expectile(tau)
            curve = conditional_expectile(states, targets, tau, GRID)
            true_curve = cloud_mean(GRID) + cloud_std(GRID) * exact
            off = float(np.sqrt(np.mean((curve - true_curve) ** 2)))
            rows.append((f"{tau:g}", f"{found:.4f} +- {error:.4f}", f"{exact:.4f}", f"{off:.4f}"))
            numbers.append(
                {
                    "tau": tau,
                    "gaussian": found,
                    "standard_error": error,
                    "gaussian_in_theory": exact,
                    "conditional_rms_error": off,
                }
            )
        output.print_table(
            f"Expectiles of {self.samples:,} draws",
            ("tau", "Gaussian", "in theory", "conditional: RMS from theory"),
            rows,
        )
        figure = output.new_figure(15, 4.8)
        loss_axes, gaussian_axes, cloud_axes = figure.subplots(1, 3)
        draw_loss(loss_axes)
        draw_gaussian(gaussian_axes, numbers)
        draw_cloud(cloud_axes, states, targets)
        kernel = extension.unavailable_reason() or "C++"
        out.write(
            figure,
            {"samples": self.samples, "seed": self.seed, "kernel": kernel, "expectiles": numbers},
        )


GRID = np.linspace(-1, 1, 101)
#: Degree of the polynomial in the state that is fitted to the cloud.
DEGREE = 11


def cloud_mean(state: Array) -> Array:
    """Mean of the cloud at a state in [-1, 1]."""
    return np.asarray(np.sin(math.pi * state))


def cloud_std(state: Array) -> Array:
    """Standard deviation of the cloud at a state."""
    return np.asarray(0.15 + 0.35 * (1 + state) / 2)


def gaussian_expectile(tau: float) -> float:
    """The tau-expectile of the standard normal distribution.

    The zero of ``(1 - 2 tau) E(X - m)+ - (1 - tau) (E X - m)``, the derivative of the loss, with
    ``E(X - m)+ = phi(m) - m (1 - Phi(m))``; by bisection.
    """

    def derivative(m: float) -> float:
        density = math.exp(-m * m / 2) / math.sqrt(2 * math.pi)
        above = density - m * 0.5 * math.erfc(m / math.sqrt(2))
        return (1 - 2 * tau) * above + (1 - tau) * m

    low, high = -40.0, 40.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if derivative(middle) < 0 else (low, middle)
    return (low + high) / 2 + 0.0  # never -0


def sample_expectile(sample: Array, tau: float) -> tuple[float, float]:
    """The tau-expectile of a sample ``[N]`` and its standard error, that of an M-estimator:
    ``sqrt(E[psi^2] / N) / E[psi']`` with psi the derivative of the loss (Huber 1964)."""
    found = float(expectiles.expectile(sample, np.ones_like(sample), tau))
    u = sample - found
    psi = expectiles.loss_gradient(u, tau)
    slope = 2 * expectiles.weights(u, tau)
    return found, float(np.sqrt(np.mean(psi**2) / len(sample)) / slope.mean())


def conditional_expectile(states: Array, targets: Array, tau: float, at: Array) -> Array:
    """Expectiles of the targets at the states ``at``: a polynomial fitted with the loss of V."""

    def features(x: Array) -> Array:
        return np.asarray(np.polynomial.chebyshev.chebvander(x, DEGREE), dtype=np.float64)

    coefficients = expectiles.expectile_regression(features(states), targets, tau)
    return np.asarray(features(at) @ coefficients)


def draw_loss(axes: Axes) -> None:
    """The loss against its argument."""
    u = np.linspace(-1, 1, 201)
    for tau in (0.5, 0.7, 0.9, 0.99):
        axes.plot(u, expectiles.loss(u, tau), label=f"$\\tau$ = {tau:g}")
    axes.set(
        title="Expectile loss $|\\tau - 1(u < 0)|\\, u^2$",
        xlabel="u = Q(s, a) - V(s)",
        ylabel="loss",
    )
    axes.legend()
    axes.grid(alpha=0.3)


def draw_gaussian(axes: Axes, numbers: list[dict[str, Any]]) -> None:
    """The density, a line at each sample's expectile and a mark at the exact one."""
    x = np.linspace(-3.5, 3.5, 400)
    axes.plot(x, np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi), color="black")
    for i, row in enumerate(numbers):
        label = f"$\\tau$ = {row['tau']:g}: {row['gaussian']:.2f}"
        axes.axvline(row["gaussian"], color=colour(i), label=label)
    exact = [row["gaussian_in_theory"] for row in numbers]
    axes.plot(exact, np.zeros(len(exact)), "k^", markersize=7, label="in theory", clip_on=False)
    axes.set(title="Expectiles of N(0, 1)", xlabel="x", ylabel="density", ylim=(0, None))
    axes.legend(fontsize=8, loc="upper left")


def draw_cloud(axes: Axes, states: Array, targets: Array) -> None:
    """The cloud, and the expectiles fitted to it."""
    shown = slice(0, 3000)  # more would hide the curves
    axes.scatter(states[shown], targets[shown], s=2, color="0.75", rasterized=True)
    for i, tau in enumerate(TAUS):
        fitted = conditional_expectile(states, targets, tau, GRID)
        axes.plot(GRID, fitted, color=colour(i), label=f"$\\tau$ = {tau:g}")
        exact = cloud_mean(GRID) + cloud_std(GRID) * gaussian_expectile(tau)
        axes.plot(GRID, exact, "k:", linewidth=1, label="in theory" if tau == TAUS[-1] else None)
    axes.set(title="Expectiles conditional on the state", xlabel="state s", ylabel="value")
    axes.legend(fontsize=8, loc="upper left")


def colour(i: int) -> Any:
    """From dark to light over TAUS."""
    from matplotlib import colormaps

    return colormaps["viridis"](i / (len(TAUS) - 0.5))
