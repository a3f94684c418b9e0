// The weight of advantage-weighted regression (paper, equation 7; the clip is the authors').
#pragma once

#include <cmath>

#include "iql/host_device.h"

namespace iql {

// min(exp(beta * advantage), clip); NaN where the advantage is NaN.
template <class T>
IQL_HD inline T awr_weight(T advantage, T beta, T clip) {
  const T weight = std::exp(beta * advantage);
  return weight > clip ? clip : weight;
}

}  // namespace iql
