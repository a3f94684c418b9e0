// The authors' policy head: a diagonal Gaussian whose mean is tanh of the network's output and
// whose log-std is a state-independent parameter, clipped to [-5, 2].
#pragma once

#include <cmath>

#include "iql/host_device.h"

namespace iql {

constexpr double kLogStdMin = -5.0;
constexpr double kLogStdMax = 2.0;

template <class T>
struct GaussianTerm {
  T log_prob;   // of one action component
  T d_output;   // d log_prob / d (network output before tanh)
  T d_log_std;  // d log_prob / d (log-std before the clip)
};

// log_std and inverse_std = exp(-log_std) are of the clipped parameter; `free` says that the clip
// leaves it alone, so that a gradient reaches it.
template <class T>
IQL_HD inline GaussianTerm<T> gaussian_term(T action, T output, T log_std, T inverse_std,
                                            bool free) {
  const T half_log_two_pi = T(0.91893853320467274178);
  const T mean = std::tanh(output);
  const T z = (action - mean) * inverse_std;
  GaussianTerm<T> term;
  term.log_prob = T(-0.5) * z * z - log_std - half_log_two_pi;
  term.d_output = z * inverse_std * (T(1) - mean * mean);
  term.d_log_std = free ? z * z - T(1) : T(0);
  return term;
}

// The deterministic variant (a departure): minus the squared error of the mean.
template <class T>
IQL_HD inline GaussianTerm<T> squared_error_term(T action, T output) {
  const T mean = std::tanh(output);
  const T difference = action - mean;
  return {-difference * difference, T(2) * difference * (T(1) - mean * mean), T(0)};
}

}  // namespace iql
