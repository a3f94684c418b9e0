// Which block of a step that stays on the device (cuda/resident.h) keeps which tiles of weights.
#pragma once

#include <vector>

#include "cuda/layout.h"

namespace iql::cuda {

// What a team does in an update: a tile of a network, or the metrics of a seed, which stand after
// its networks. `state` is where the block keeps the tile, in floats. No seed: nothing.
struct Duty {
  int seed, network, tile, state;
};

// Seeds that follow each other.
struct SeedRange {
  int first, count;
};

struct Dealt {
  int blocks, most;          // duties of a block
  int floats;                // that the fullest block keeps
  std::vector<Duty> duties;  // [blocks][most]
};

// Deals out everything of some seeds, so that no block has more to do in an update than it must,
// nor keeps much more than others.
Dealt deal(const Problem& p, SeedRange seeds, int blocks);

// The arrays of a network's parameters that are kept: weights, both moments, and a critic's target.
IQL_HD inline int kept_arrays(int network) { return network >= engine::kCritic ? 4 : 3; }

}  // namespace iql::cuda
