"""Finite Markov decision processes and their exact values.

Shapes: S states, A actions. Every value here is exact up to rounding, and what rounding and
stopping leave is bounded and given back, so that a test's tolerance follows from it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from iql_fast.experiments import expectiles
from iql_fast.experiments.expectiles import Array


@dataclass(frozen=True)
class FiniteMDP:
    """States, actions, transitions, and the policy that the data come from.

    Attributes:
        transition: ``[S, A, S]``, p(s'|s, a). Rows of actions that ``behaviour`` never takes are
            not read by what is in-support.
        reward: ``[S, A, S]``, r(s, a, s').
        behaviour: ``[S, A]``, mu(a|s); an action is in the data's support where it is positive.
        discount: gamma, in [0, 1).
        terminal: ``[S]``; values of terminal states are 0.
    """

    transition: Array
    reward: Array
    behaviour: Array
    discount: float
    terminal: np.ndarray

    @property
    def states(self) -> int:
        return int(self.behaviour.shape[0])

    @property
    def actions(self) -> int:
        return int(self.behaviour.shape[1])

    @property
    def support(self) -> np.ndarray:
        """``[S, A]``: the actions that the data contain."""
        return self.behaviour > 0

    def q(self, values: Array) -> Array:
        """``r(s, a) + gamma E[V(s')]``, ``[S, A]``, for ``values`` ``[S]``."""
        continued = np.where(self.terminal, 0.0, values)
        backup = self.transition * (self.reward + self.discount * continued)
        return np.asarray(backup.sum(-1), dtype=np.float64)


@dataclass(frozen=True)
class Values:
    """State values ``[S]``, none of them further than ``error`` from the exact ones."""

    v: Array
    error: float


def value_iteration(mdp: FiniteMDP, tolerance: float = 1e-11, *, in_support: bool = True) -> Values:
    """The optimal values, over the actions of the data's support or over all.

    Iterates ``V <- max_a Q`` until a step moves V by no more than ``tolerance (1 - gamma)``; the
    contraction then bounds what is left by ``tolerance gamma`` (Puterman 1994, theorem 6.3.1).
    """
    allowed = mdp.support if in_support else np.ones_like(mdp.support)
    v = np.zeros(mdp.states)
    while True:
        q = np.where(allowed, mdp.q(v), -np.inf)
        new = np.where(mdp.terminal, 0.0, q.max(1))
        step = float(np.abs(new - v).max())
        v = new
        if step <= tolerance * (1 - mdp.discount):
            return Values(v, tolerance)


def policy_evaluation(mdp: FiniteMDP, policy: Array) -> Array:
    """Values ``[S]`` of a policy ``[S, A]``, by one linear solve."""
    rewards = (policy * (mdp.transition * mdp.reward).sum(-1)).sum(-1)
    successors = np.einsum("sa,sat->st", policy, mdp.transition)
    successors = mdp.discount * successors * ~mdp.terminal
    v = np.linalg.solve(np.eye(mdp.states) - successors, rewards)
    return np.asarray(np.where(mdp.terminal, 0.0, v), dtype=np.float64)


def greedy(mdp: FiniteMDP, values: Array) -> np.ndarray:
    """The best in-support action ``[S]`` by the Q of ``values``; the first of equals."""
    return np.asarray(np.where(mdp.support, mdp.q(values), -np.inf).argmax(1))


def deterministic(actions: np.ndarray, count: int) -> Array:
    """The policy ``[S, A]`` that takes ``actions`` ``[S]`` of ``count``."""
    return np.asarray(np.eye(count)[actions])


def expectile_values(mdp: FiniteMDP, tau: float) -> Values:
    """V_tau: ``V(s) = E^tau_{a ~ mu}[Q(s, a)]``, ``Q(s, a) = r(s, a) + gamma E[V(s')]``.

    What IQL's two losses (equations 5 and 6) converge to: the expectile is over actions alone,
    the mean over next states. For tau = 0.5 these are the values of the behaviour policy.
    """
    successors = mdp.discount * mdp.transition * ~mdp.terminal
    rewards = (mdp.transition * mdp.reward).sum(-1)
    return _expectile_fixed_point(mdp, mdp.behaviour, rewards, successors, tau)


def lucky_values(mdp: FiniteMDP, tau: float) -> Values:
    """The same with one expectile over ``r + gamma V(s')``, actions and next states together.

    What a single expectile loss on the Bellman error would converge to (paper, section 4.3): a
    large tau then picks the luckiest next state, which no action can be counted on to reach.
    """
    S, A = mdp.states, mdp.actions
    probabilities = (mdp.behaviour[:, :, None] * mdp.transition).reshape(S, A * S)
    next_state = mdp.discount * np.diag(~mdp.terminal).astype(np.float64)
    successors = np.broadcast_to(next_state, (S, A, S, S)).reshape(S, A * S, S)
    return _expectile_fixed_point(mdp, probabilities, mdp.reward.reshape(S, A * S), successors, tau)


def _expectile_fixed_point(
    mdp: FiniteMDP, probabilities: Array, constants: Array, successors: Array, tau: float
) -> Values:
    """V with ``V(s) = E^tau_k[constants(s, k) + successors(s, k) . V]`` at every state.

    Newton's method, as for a single expectile: with ``u(s, k)`` the outcome less V(s), V is where
    ``g(s) = sum_k p |tau - 1(u < 0)| u`` vanishes. For tau >= 1/2 each summand is the larger of
    ``tau u`` and ``(1 - tau) u``, so g is convex in V, and since rows of the linear systems are
    diagonally dominant (gamma < 1) the iterates rise until no outcome changes sides; for
    tau < 1/2 they fall.

    The fixed point is that of a gamma-contraction, and an expectile is within
    ``|g(s)| / min(tau, 1 - tau)`` of V(s), so the error is at most
    ``max |g| / (min(tau, 1 - tau) (1 - gamma))``, g as it is left (and as far as it can be
    computed: one rounding of each outcome).

    Args:
        probabilities, constants: ``[S, K]``.
        successors: ``[S, K, S]``, discount included.
    """
    S = mdp.states
    p = np.where(mdp.terminal[:, None], 0.0, probabilities)
    largest = max(float(np.abs(constants).max()), 1e-300) / (1 - mdp.discount)  # of any value
    rounding = float(np.finfo(np.float64).eps) * largest
    weight, u = p, None
    for _ in range(expectiles.NEWTON_STEPS):
        # As shares, so that rows of unlike tau are solved equally well; terminal rows say V = 0.
        share = weight / np.where(mdp.terminal, 1.0, weight.sum(-1))[:, None]
        matrix = np.eye(S) - np.einsum("sk,skt->st", share, successors)
        v = np.linalg.solve(matrix, (share * constants).sum(-1))
        last, u = u, constants + successors @ v - v[:, None]
        weight = p * expectiles.weights(u, tau)
        if last is not None and expectiles.same_side(u, last, S * rounding):
            g = np.abs((weight * u).sum(-1)).max() + S * rounding
            return Values(v, float(g / (min(tau, 1 - tau) * (1 - mdp.discount))))
    raise ArithmeticError(f"no values found after {expectiles.NEWTON_STEPS} Newton steps")


def random_mdp(rng: np.random.Generator) -> FiniteMDP:
    """Two to twelve states, two to six actions, stochastic transitions, rewards in [-1, 1].

    The behaviour policy leaves each action out with probability 0.3 (never all), so that what is
    optimal in its support differs from what is optimal. No action in the support is rarer than
    a half of what a uniform choice would give it.
    """
    S, A = int(rng.integers(2, 13)), int(rng.integers(2, 7))
    transition = rng.dirichlet(np.full(S, 0.5), size=(S, A))
    support = rng.random((S, A)) < 0.7
    support[np.arange(S), rng.integers(0, A, S)] = True
    share = rng.dirichlet(np.ones(A), size=S) * support
    share = share / share.sum(-1, keepdims=True)
    behaviour = 0.5 * share + 0.5 * support / support.sum(-1, keepdims=True)
    return FiniteMDP(
        transition=transition,
        reward=rng.uniform(-1, 1, size=(S, A, S)),
        behaviour=behaviour,
        discount=float(rng.uniform(0.5, 0.95)),
        terminal=np.zeros(S, dtype=bool),
    )
