// The weight of advantage-weighted regression (paper, equation 7; the clip is the authors').
#pragma once

#include <cmath>

#include "iql/host_device.h"

namespace iql {

struct StandardExponential {
  template <class T>
  IQL_HD inline T operator()(T x) const {
    return std::exp(x);
  }
};

// min(exp(beta * advantage), clip); NaN where the advantage is NaN. A loop that shall be vectorised
// brings an exponential of its own.
template <class T, class Exponential = StandardExponential>
IQL_HD inline T awr_weight(T advantage, T beta, T clip, Exponential exponential = {}) {
  const T weight = exponential(beta * advantage);
  return weight > clip ? clip : weight;
}

}  // namespace iql
