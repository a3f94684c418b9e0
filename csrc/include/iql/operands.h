// What the elementwise loops and kernels are given; T is the type that arrays are stored in.
#pragma once

#include <cstdint>

namespace iql {

// The gradient of an outcome by a loss: one number for all elements, or one each; times `scale`.
template <class T>
struct Upstream {
  const T* data;
  bool each;
  double scale;
};

// log_std is one row of A for all rows, or as large as the action: [rows, A].
template <class T>
struct Gaussian {
  const T *mean, *log_std, *action;
  std::int64_t components;  // A
  bool shared_log_std;
};

// r + discount * mask * V(s') of `n` transitions.
template <class T>
struct TdTarget {
  const T *reward, *mask, *next_v;
  double discount;
  std::int64_t n;
};

// What arithmetic on T is done in.
template <class T>
struct ComputedIn {
  using type = float;
};
template <>
struct ComputedIn<double> {
  using type = double;
};
template <class T>
using Computed = typename ComputedIn<T>::type;

}  // namespace iql
