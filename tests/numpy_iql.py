"""One IQL step written by hand in numpy: gradients derived on paper, no autograd, one seed.

An independent statement of the same rule, which the torch reference is checked against. No dropout.
"""

from __future__ import annotations

import numpy as np

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


class NumpyIQL:
    """Holds a seed's parameters as ``{name: array}`` with the names of ``Engine.state_dict``."""

    def __init__(self, state, seed_index, hyper):
        self.p = {
            name: np.array(tensor[seed_index], dtype=np.float64)
            for name, tensor in state.items()
            if name != "step"
        }
        self.t = int(state["step"])
        self.hyper = hyper
        self.layers = sum(n.startswith("value.layers") for n in self.p) // 2
        self.critics = self.p["critic.layers.0.weight"].shape[0]

    def parameters(self, net, e=None):
        pick = (lambda x: x) if e is None else (lambda x: x[e])
        return [
            (pick(self.p[f"{net}.layers.{i}.weight"]), pick(self.p[f"{net}.layers.{i}.bias"]))
            for i in range(self.layers)
        ]

    @staticmethod
    def forward(parameters, x):
        """Activations of every layer, the input first."""
        activations = [x]
        for i, (weight, bias) in enumerate(parameters):
            x = x @ weight.T + bias
            if i < len(parameters) - 1:
                x = np.where(x > 0, x, 0)
            activations.append(x)
        return activations

    @staticmethod
    def backward(parameters, activations, d_out):
        """[(d_weight, d_bias)] of every layer."""
        gradients = []
        for i in reversed(range(len(parameters))):
            gradients.append((d_out.T @ activations[i], d_out.sum(0)))
            if i > 0:
                d_out = (d_out @ parameters[i][0]) * (activations[i] > 0)
        return gradients[::-1]

    def adam(self, name, gradient, rate, e=None):
        index = ... if e is None else e
        m, v, w = (self.p[f"{prefix}{name}"] for prefix in ("adam.m.", "adam.v.", ""))
        m[index] = BETA1 * m[index] + (1 - BETA1) * gradient
        v[index] = BETA2 * v[index] + (1 - BETA2) * gradient**2
        m_hat = m[index] / (1 - BETA1 ** (self.t + 1))
        v_hat = v[index] / (1 - BETA2 ** (self.t + 1))
        w[index] -= rate * m_hat / (np.sqrt(v_hat) + EPSILON)

    def descend(self, net, gradients, rate, e=None):
        for i, (d_weight, d_bias) in enumerate(gradients):
            self.adam(f"{net}.layers.{i}.weight", d_weight, rate, e)
            self.adam(f"{net}.layers.{i}.bias", d_bias, rate, e)

    def step(self, s, a, r, mask, s_next):
        h, B = self.hyper, len(r)
        sa = np.concatenate([s, a], 1)
        targets = [
            self.forward(self.parameters("target", e), sa)[-1][:, 0] for e in range(self.critics)
        ]
        q = np.minimum.reduce(targets)

        parameters = self.parameters("value")
        activations = self.forward(parameters, s)
        u = q - activations[-1][:, 0]
        slope = np.abs(h.expectile - (u < 0))
        gradients = self.backward(parameters, activations, (-2 * slope * u / B)[:, None])
        old_v = activations[-1][:, 0].copy()
        old_next = self.forward(parameters, s_next)[-1][:, 0]
        self.descend("value", gradients, h.value_lr)
        if h.value_order == "old":
            v, v_next = old_v, old_next
        else:
            v = self.forward(self.parameters("value"), s)[-1][:, 0]
            v_next = self.forward(self.parameters("value"), s_next)[-1][:, 0]

        weight = np.minimum(np.exp(h.temperature * (q - v)), h.weight_clip)
        parameters = self.parameters("actor")
        activations = self.forward(parameters, s)
        mean = np.tanh(activations[-1])
        raw = self.p["actor.log_std"]
        log_std = np.clip(raw, -5, 2)
        variance = np.exp(2 * log_std)
        if h.deterministic_policy:
            d_mean = weight[:, None] * 2 * (mean - a) / B
            d_log_std = np.zeros_like(raw)
        else:
            d_mean = -weight[:, None] * (a - mean) / variance / B
            d_log_std = -(weight[:, None] * ((a - mean) ** 2 / variance - 1)).sum(0) / B
            d_log_std = d_log_std * ((raw >= -5) & (raw <= 2))
        gradients = self.backward(parameters, activations, d_mean * (1 - mean**2))
        rate = h.actor_lr
        if h.actor_schedule_steps:
            rate *= 0.5 * (1 + np.cos(np.pi * min(1, self.t / h.actor_schedule_steps)))
        self.descend("actor", gradients, rate)
        self.adam("actor.log_std", d_log_std, rate)

        y = r + h.discount * mask * v_next
        for e in range(self.critics):
            parameters = self.parameters("critic", e)
            activations = self.forward(parameters, sa)
            error = activations[-1][:, 0] - y
            gradients = self.backward(parameters, activations, (2 * error / B)[:, None])
            self.descend("critic", gradients, h.critic_lr, e)

        for name in [n for n in self.p if n.startswith("target.")]:
            source = self.p[name.replace("target", "critic", 1)]
            self.p[name] += h.polyak * (source - self.p[name])
        self.t += 1
        return {"weight": weight, "u": u, "targets": targets}
