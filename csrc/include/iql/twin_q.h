// The critics' loss (paper, equation 6).
#pragma once

#include "iql/host_device.h"

namespace iql {

template <class T>
struct SquaredError {
  T loss;  // (q - target)^2
  T d_q;   // its derivative
};

// r + discount * mask * V(s'); the mask is 0 where the transition ended an episode.
template <class T>
IQL_HD inline T td_target(T reward, T mask, T next_v, T discount) {
  return reward + discount * mask * next_v;
}

template <class T>
IQL_HD inline SquaredError<T> squared_error(T q, T target) {
  const T difference = q - target;
  return {difference * difference, T(2) * difference};
}

}  // namespace iql
