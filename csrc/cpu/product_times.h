// What the products between hidden layers take in a set of kernels, here and now: what is fastest
// differs from core to core, and no list of processors knows the next one.
#pragma once

#include "cpu/kernels.h"

namespace iql::cpu {

// Shares of nonzero elements at which products by lists are timed.
constexpr double kTimedDensities[] = {0.25, 0.5};

// Seconds; infinite where there is no such product. Those by lists include making the lists.
struct ProductTimes {
  double dense, listed[2];
};
struct LayerTimes {
  ProductTimes forward, backward, weights;
};

// Of so many rows, by a block of which is timed as the engine does it: the least of several times,
// of which some are taken in any case and more within so many seconds.
template <class T, class Operand>
LayerTimes time_products(const Kernels<T, Operand>& kernels, int rows, int inputs, int outputs,
                         double seconds);

}  // namespace iql::cpu
