"""Lemmas 1 and 2 and theorem 3 of the paper on random finite MDPs, solved exactly, and the lucky
sample that the separate V is there to avoid.

Each claim is checked as an inequality. Its tolerance is no free number: it is the sum of the error
bounds that the solver gives with the values compared (``mdp.Values.error``).

- Lemma 2: ``V_tau <= V_tau'`` at every state where ``tau < tau'``.
- Theorem 3, from below: ``V_tau <= V*``, the optimum over the actions in the data's support.
- Theorem 3, the limit, with a rate. An expectile m of X solves ``tau E(X - m)+ = (1 - tau)
  E(m - X)+``. Where X takes its maximum x* with probability p, the left side is at least
  ``tau p (x* - m)`` and the right at most ``(1 - tau) (x* - min X)``, so

      x* - m <= (1 - tau) / (tau p) (x* - min X),

  which is lemma 1 with a rate. All Q lie in an interval of length ``R / (1 - gamma)``, R the range
  of the rewards. With D the largest ``V* - V_tau`` over states, the best action's Q_tau is at least
  ``V* - gamma D``, so ``D <= gamma D + (1 - tau) / (tau p) R / (1 - gamma)`` and

      V* - V_tau <= (1 - tau) / (tau p) R / (1 - gamma)^2,

  p the probability of the rarest action in the support.

Lemma 1 is the case of one state and no discount: random bandits.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from iql_fast.experiments.expectiles import Array
from iql_fast.experiments.mdp import (
    FiniteMDP,
    Values,
    expectile_values,
    lucky_values,
    random_mdp,
    value_iteration,
)
from iql_fast.support import output
from iql_fast.support.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TAUS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 0.9999, 0.99999, 0.999999)
#: Where the lucky sample is shown.
LUCKY_TAU = 0.9


@dataclass
class Theory:
    """Lemma 1 (an expectile tends to the supremum), lemma 2 (V_tau grows with tau) and theorem 3
    (V_tau tends to the optimum in the data's support) on random finite MDPs with exact values, and
    the overestimation by lucky samples where V is not kept apart from Q."""

    out: Path = Path("experiments")
    """folder of theory.png and theory.json"""
    mdps: int = 200
    """random MDPs, and as many random bandits for lemma 1"""
    seed: int = 0
    """of the random MDPs"""

    def run(self) -> None:
        """Solve, check, print, draw.

        Raises:
            UserError: an option is out of range, or the folder cannot be written.
        """
        for name, least in {"mdps": 1, "seed": 0}.items():
            if getattr(self, name) < least:
                raise UserError(f"--{name} is {getattr(self, name)}; expected at least {least}.")
        out = output.Output(self.out, "theory")
        from rich.progress import track

        rng = np.random.default_rng(self.seed)
        bandits = [
            solve(random_bandit(rng)) for _ in track(range(self.mdps), "bandits", transient=True)
        ]
        solved = [solve(random_mdp(rng)) for _ in track(range(self.mdps), "MDPs", transient=True)]
        claims = [
            claim("lemma 1, from below", bandits, above_the_optimum),
            claim("lemma 1, rate", bandits, below_the_optimum),
            claim("lemma 2, monotone", solved, decreases),
            claim("theorem 3, from below", solved, above_the_optimum),
            claim("theorem 3, rate", solved, below_the_optimum),
        ]
        output.print_table(
            f"The paper's claims on {self.mdps} random MDPs and as many bandits",
            ("claim", "inequalities", "violations", "nearest", "tolerance"),
            [
                (c.name, f"{c.checked:,}", str(c.violations), f"{c.nearest:.1e}", f"{c.error:.0e}")
                for c in claims
            ],
        )
        luck = [luck_of(tau) for tau in (0.5, 0.7, 0.9, 0.95, 0.99)]
        output.print_table(
            f"The lucky sample: value of a lottery, V* = {value_iteration(lottery()).v[0]:.2f}",
            ("tau", "separate V", "one expectile", "overestimates by"),
            [
                tuple(f"{row[k]:.2f}" for k in ("tau", "separate", "lucky", "excess"))
                for row in luck
            ],
        )
        excess = [float((s.lucky.v - s.optimum.v).max()) for s in solved]
        over = sum(x > 0 for x in excess)
        print(
            f"Random MDPs, tau = {LUCKY_TAU}: one expectile over r + gamma V(s') overestimates "
            f"V* in {over} of {self.mdps}, by up to {max(excess):.2f}."
        )
        figure = output.new_figure(13, 9.5)
        axes = figure.subplots(2, 2)
        draw_rate(
            axes[0, 0],
            bandits,
            "Lemma 1: an expectile tends to the maximum",
            r"$\max X - E^\tau[X]$",
        )
        draw_monotone(axes[0, 1], np.random.default_rng(self.seed))
        draw_rate(
            axes[1, 0],
            solved,
            r"Theorem 3: $V_\tau$ tends to the in-support optimum",
            r"$\max_s V^*(s) - V_\tau(s)$",
        )
        draw_lottery(axes[1, 1])
        out.write(
            figure,
            {
                "mdps": self.mdps,
                "seed": self.seed,
                "claims": [vars(c) for c in claims],
                "lottery": luck,
                "random_mdps": {"tau": LUCKY_TAU, "overestimated": over, "by_up_to": max(excess)},
            },
        )


@dataclass(frozen=True)
class Solved:
    """An MDP with its values: V* and V_tau for every tau of ``TAUS``, and ``lucky_values`` for
    ``LUCKY_TAU``."""

    mdp: FiniteMDP
    optimum: Values
    expectile: list[Values]
    lucky: Values

    @property
    def scale(self) -> float:
        """What the bound of theorem 3 multiplies ``(1 - tau) / tau`` by."""
        possible = (self.mdp.transition > 0) & self.mdp.support[:, :, None]
        rewards = self.mdp.reward[possible]
        rarest = self.mdp.behaviour[self.mdp.support].min()
        return float(np.ptp(rewards) / rarest / (1 - self.mdp.discount) ** 2)

    def gap(self, t: int) -> float:
        """The largest ``V* - V_tau`` over states for ``TAUS[t]``."""
        return float((self.optimum.v - self.expectile[t].v).max())


def solve(mdp: FiniteMDP) -> Solved:
    """All values that the claims are about."""
    return Solved(
        mdp,
        value_iteration(mdp),
        [expectile_values(mdp, tau) for tau in TAUS],
        lucky_values(mdp, LUCKY_TAU),
    )


def random_bandit(rng: np.random.Generator) -> FiniteMDP:
    """One state, no discount, two to twenty rewards in [-1, 1] with random probabilities."""
    count = int(rng.integers(2, 21))
    return FiniteMDP(
        transition=np.ones((1, count, 1)),
        reward=rng.uniform(-1, 1, (1, count, 1)),
        behaviour=0.5 * rng.dirichlet(np.ones(count), 1) + 0.5 / count,
        discount=0.0,
        terminal=np.zeros(1, dtype=bool),
    )


# The claims: by how much each inequality fails, negative where it holds, and what of that the
# solver's own error may account for.

Margins = list[tuple[Array, float]]


def decreases(solved: Solved) -> Margins:
    """Lemma 2: ``V_tau - V_tau'`` for neighbouring tau < tau'."""
    pairs = zip(solved.expectile[:-1], solved.expectile[1:], strict=True)
    return [(low.v - high.v, low.error + high.error) for low, high in pairs]


def above_the_optimum(solved: Solved) -> Margins:
    """Theorem 3 from below: ``V_tau - V*``."""
    return [(v.v - solved.optimum.v, v.error + solved.optimum.error) for v in solved.expectile]


def below_the_optimum(solved: Solved) -> Margins:
    """Theorem 3, the rate: ``V* - V_tau`` less its bound."""
    return [
        (solved.optimum.v - v.v - solved.scale * (1 - tau) / tau, v.error + solved.optimum.error)
        for tau, v in zip(TAUS, solved.expectile, strict=True)
    ]


@dataclass(frozen=True)
class Claim:
    """What came of one inequality.

    Attributes:
        checked: inequalities, one a state and tau of every MDP.
        violations: those that failed by more than their tolerance.
        nearest: the largest margin, positive where the inequality itself does not hold.
        error: the largest tolerance.
    """

    name: str
    checked: int
    violations: int
    nearest: float
    error: float


def claim(name: str, solved: list[Solved], margins) -> Claim:  # type: ignore[no-untyped-def]
    """Check one inequality on every MDP."""
    found = [pair for one in solved for pair in margins(one)]
    return Claim(
        name,
        checked=sum(margin.size for margin, _ in found),
        violations=sum(int((margin > error).sum()) for margin, error in found),
        nearest=max(float(margin.max()) for margin, _ in found),
        error=max(error for _, error in found),
    )


def lottery() -> FiniteMDP:
    """A sure reward of 1, or a ticket that wins 5 with probability 0.1: worth 0.5.

    States: start, won, lost, end (terminal). Actions: take the sure reward, buy the ticket; both
    equally frequent in the data.
    """
    transition, reward = np.zeros((4, 2, 4)), np.zeros((4, 2, 4))
    transition[0, 0, 3], reward[0, 0, 3] = 1, 1
    transition[0, 1, 1], transition[0, 1, 2] = 0.1, 0.9
    transition[1, :, 3], reward[1, :, 3] = 1, 5
    transition[2, :, 3] = transition[3, :, 3] = 1
    return FiniteMDP(
        transition, reward, np.full((4, 2), 0.5), 0.99, np.array([False, False, False, True])
    )


def luck_of(tau: float) -> dict[str, float]:
    """Values of the lottery's start with V apart from Q and with one expectile over both."""
    separate, lucky = (f(lottery(), tau).v[0] for f in (expectile_values, lucky_values))
    best = value_iteration(lottery()).v[0]
    return {
        "tau": tau,
        "separate": float(separate),
        "lucky": float(lucky),
        "excess": float(lucky - best),
    }


# Pictures.


def draw_rate(axes: Axes, solved: list[Solved], title: str, gap: str) -> None:
    """Every MDP's distance from its limit, in units of its bound: below the diagonal."""
    odds = np.array([(1 - tau) / tau for tau in TAUS])
    for i, one in enumerate(solved):
        distance = [one.gap(t) / one.scale for t in range(len(TAUS))]
        label = f"{len(solved)} random {'bandits' if one.mdp.discount == 0 else 'MDPs'}"
        axes.plot(odds, distance, color="C0", alpha=0.15, label=None if i else label)
    axes.plot(odds, odds, "k--", label="bound")
    axes.set(
        title=title,
        xscale="log",
        yscale="log",
        xlabel=r"$(1 - \tau) / \tau$ ($\tau$ from 0.5 at the right to 0.999999 at the left)",
        ylabel=f"{gap}, scaled to the bound",
        ylim=(1e-10, 3),
    )
    for handle in axes.legend().get_lines():
        handle.set_alpha(1)
    axes.grid(alpha=0.3)


def draw_monotone(axes: Axes, rng: np.random.Generator) -> None:
    """V_tau of the states of one MDP."""
    mdp = random_mdp(rng)
    while mdp.states < 5:
        mdp = random_mdp(rng)
    taus = np.linspace(0.02, 0.995, 60)
    values = np.array([expectile_values(mdp, tau).v for tau in taus])
    optimum = value_iteration(mdp).v
    for s in range(5):
        axes.plot(taus, values[:, s], color=f"C{s}", label=f"state {s}")
        axes.axhline(optimum[s], color=f"C{s}", linestyle=":")
    axes.plot([], [], "k:", label="$V^*$, in-support")
    axes.axvline(0.5, color="0.6", linewidth=1, label=r"$\tau$ = 0.5: the behaviour policy")
    axes.set(
        title=r"Lemma 2: $V_\tau$ grows with $\tau$ (five states of one MDP)",
        xlabel=r"$\tau$",
        ylabel=r"$V_\tau(s)$",
    )
    # Below the axes, where it hides no curve.
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=4, frameon=False)
    axes.grid(alpha=0.3)


def draw_lottery(axes: Axes) -> None:
    """The two estimates of the lottery's value."""
    taus = np.linspace(0.5, 0.999, 100)
    rows = [luck_of(tau) for tau in taus]
    axes.plot(
        taus, [r["lucky"] for r in rows], color="C3", label=r"one expectile over r + $\gamma$ V(s')"
    )
    axes.plot(taus, [r["separate"] for r in rows], color="C0", label="V apart from Q (IQL)")
    axes.axhline(value_iteration(lottery()).v[0], color="black", linestyle=":", label="V*")
    shown = luck_of(LUCKY_TAU)
    axes.annotate(
        f"overestimates by {shown['excess']:.2f}\nat $\\tau$ = {LUCKY_TAU}",
        (LUCKY_TAU, shown["lucky"]),
        xytext=(0.6, 3.2),
        arrowprops={"arrowstyle": "->"},
    )
    axes.set(
        title="The lucky sample: a sure 1, or 5 with probability 0.1",
        xlabel=r"$\tau$",
        ylabel="value of the start",
    )
    axes.legend(loc="upper left")
    axes.grid(alpha=0.3)
