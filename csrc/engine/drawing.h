// What a batch will have, before it is drawn.
#pragma once

#include <cstdint>

#include "engine/config.h"
#include "iql/philox.h"

namespace iql::engine {

// Whether the batch of a (0-based) step, of any seed, has that place of a dataset of so many
// transitions.
inline bool draws(const Config& config, std::int64_t size, std::int64_t step, std::int64_t place) {
  for (const std::uint64_t seed : config.seeds) {
    for (int row = 0; row < config.batch_size; ++row) {
      if (batch_row(seed, step, row, size) == place) return true;
    }
  }
  return false;
}

}  // namespace iql::engine
