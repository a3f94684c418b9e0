// Adam (Kingma and Ba, 2015); the constants are the authors' where none are given.
#pragma once

#include <cmath>

#include "iql/host_device.h"

namespace iql {

// One step's coefficients, computed once in double: they depend on the step, not on the element.
template <class T>
struct AdamStep {
  T rate;          // learning rate / (1 - beta1^t)
  T inverse_root;  // 1 / sqrt(1 - beta2^t)
  T one_minus_beta1 = T(0.1);
  T one_minus_beta2 = T(0.001);
  T epsilon = T(1e-8);
};

// t is 1 at the first step.
template <class T>
IQL_HD inline AdamStep<T> adam_step(double learning_rate, double t, double beta1 = 0.9,
                                    double beta2 = 0.999, double epsilon = 1e-8) {
  AdamStep<T> step;
  step.rate = T(learning_rate / (1.0 - std::pow(beta1, t)));
  step.inverse_root = T(1.0 / std::sqrt(1.0 - std::pow(beta2, t)));
  step.one_minus_beta1 = T(1.0 - beta1);
  step.one_minus_beta2 = T(1.0 - beta2);
  step.epsilon = T(epsilon);
  return step;
}

// x divided by what Adam divides its first moment by.
template <class T>
struct AdamQuotient {
  const AdamStep<T>& step;
  IQL_HD inline T operator()(T x, T v) const {
    return x / (std::sqrt(v) * step.inverse_root + step.epsilon);
  }
};

// Of numbers, or of vectors of them with a `quotient` of their own.
template <class V, class T, class Quotient>
IQL_HD inline void adam_update(V& weight, V& m, V& v, V gradient, const AdamStep<T>& step,
                               const Quotient& quotient) {
  m += step.one_minus_beta1 * (gradient - m);
  v += step.one_minus_beta2 * (gradient * gradient - v);
  weight -= quotient(step.rate * m, v);
}

template <class T>
IQL_HD inline void adam_update(T& weight, T& m, T& v, T gradient, const AdamStep<T>& step) {
  adam_update(weight, m, v, gradient, step, AdamQuotient<T>{step});
}

// Cosine from `initial` to 0 over `steps` steps (authors' code: the actor's); constant where
// steps is 0. `step` is 0 at the first step.
IQL_HD inline double cosine_schedule(double initial, double step, double steps) {
  if (steps == 0) return initial;
  const double pi = 3.14159265358979323846;
  return initial * 0.5 * (1.0 + std::cos(pi * (step < steps ? step : steps) / steps));
}

}  // namespace iql
