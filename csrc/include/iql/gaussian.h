// The diagonal Gaussian, and the authors' policy head: its mean is tanh of the network's output and
// its log-std a state-independent parameter, clipped to [-5, 2].
#pragma once

#include <cmath>

#include "iql/host_device.h"

namespace iql {

constexpr double kLogStdMin = -5.0;
constexpr double kLogStdMax = 2.0;

template <class T>
struct NormalTerm {
  T log_prob;   // of one action component
  T d_mean;     // d log_prob / d mean
  T d_log_std;  // d log_prob / d log-std
};

// inverse_std = exp(-log_std)
template <class T>
IQL_HD inline NormalTerm<T> normal_term(T action, T mean, T log_std, T inverse_std) {
  const T half_log_two_pi = T(0.91893853320467274178);
  const T z = (action - mean) * inverse_std;
  return {T(-0.5) * z * z - log_std - half_log_two_pi, z * inverse_std, z * z - T(1)};
}

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
  const T mean = std::tanh(output);
  const NormalTerm<T> normal = normal_term(action, mean, log_std, inverse_std);
  return {normal.log_prob, normal.d_mean * (T(1) - mean * mean), free ? normal.d_log_std : T(0)};
}

// An action, not clipped, from noise of the standard normal distribution.
template <class T>
IQL_HD inline T gaussian_sample(T output, T log_std, T noise) {
  const T least = T(kLogStdMin), most = T(kLogStdMax);
  const T clipped = log_std < least ? least : log_std > most ? most : log_std;
  return std::tanh(output) + std::exp(clipped) * noise;
}

// The deterministic variant (a departure): minus the squared error of the mean.
template <class T>
IQL_HD inline GaussianTerm<T> squared_error_term(T action, T output) {
  const T mean = std::tanh(output);
  const T difference = action - mean;
  return {-difference * difference, T(2) * difference * (T(1) - mean * mean), T(0)};
}

}  // namespace iql
