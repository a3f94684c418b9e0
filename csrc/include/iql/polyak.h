// The slow copy of the critics (paper, section 4.3).
#pragma once

#include "iql/host_device.h"

namespace iql {

template <class T>
IQL_HD inline T polyak(T target, T source, T alpha) {
  return target + alpha * (source - target);
}

}  // namespace iql
