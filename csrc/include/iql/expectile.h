// The expectile loss (paper, equation 5).
#pragma once

#include "iql/host_device.h"

namespace iql {

template <class T>
struct Expectile {
  T loss;  // |tau - 1(u < 0)| u^2
  T d_u;   // its derivative
};

template <class T>
IQL_HD inline Expectile<T> expectile(T u, T tau) {
  const T slope = u < T(0) ? T(1) - tau : tau;
  return {slope * u * u, T(2) * slope * u};
}

}  // namespace iql
