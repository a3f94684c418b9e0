// What the engines are given and what they report.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "iql/host_device.h"

namespace iql::engine {

// Hyperparameters that may differ from seed to seed.
struct SeedHyperparameters {
  double expectile, temperature, discount, polyak, weight_clip, value_lr, critic_lr, actor_lr;
};

// Steps that train the same networks. The others stay as they are, and the targets with the
// critics.
struct Stage {
  bool value = true, actor = true, critic = true;
  std::int64_t steps = std::numeric_limits<std::int64_t>::max();  // the last stage has no end
};

// How two threads share a seed with two critics: by networks, by rows, or in whichever of these
// ways turns out to be faster. The results are the same.
enum class Sharing { kFaster, kNetworks, kRows };

// The shares of nonzero elements above which products do without lists, by what they compute.
// Negative: the kernels' own.
struct ListDensity {
  double forward = -1, backward = -1, weights = -1;
};

struct Config {
  int obs_dim, act_dim;
  std::vector<int> hidden;
  int critics;
  int batch_size;
  std::vector<std::uint64_t> seeds;
  std::vector<SeedHyperparameters> hyper;  // one a seed
  double actor_dropout = 0;
  std::int64_t actor_schedule_steps = 0;  // 0: constant
  bool old_value = false;                 // every loss reads the V from before the step
  bool deterministic_policy = false;
  std::vector<Stage> stages{Stage{}};
  int threads = 1;                     // of the CPU engine
  Sharing sharing = Sharing::kFaster;  // of the CPU engine
  std::string kernels;                 // of the CPU engine; empty: see cpu::kernels
  ListDensity list_density;            // of the CPU engine
};

// Where a (0-based) step stands: its stage, and how often each network was updated before it, which
// is what Adam and the actor's schedule count by.
struct Moment {
  std::size_t stage = 0;
  std::int64_t value_updates = 0, actor_updates = 0, critic_updates = 0;
};

inline Moment moment(const std::vector<Stage>& stages, std::int64_t step) {
  Moment now;
  for (;; ++now.stage) {
    const Stage& stage = stages[now.stage];
    const bool here = now.stage + 1 == stages.size() || step < stage.steps;
    const std::int64_t steps = here ? step : stage.steps;
    now.value_updates += stage.value ? steps : 0;
    now.actor_updates += stage.actor ? steps : 0;
    now.critic_updates += stage.critic ? steps : 0;
    if (here) return now;
    step -= steps;
  }
}

// Columns of transitions, which the caller keeps alive.
struct Columns {
  const float* observations;       // [rows, obs_dim]
  const float* actions;            // [rows, act_dim]
  const float* rewards;            // [rows]
  const float* masks;              // [rows]
  const float* next_observations;  // [rows, obs_dim]
};

// The slot of the transition that was met and is at a place of a ring (see Dataset); negative where
// a logged one is.
IQL_HD inline std::int64_t met_slot(std::int64_t place, std::int64_t rows, std::int64_t met_rows,
                                    std::int64_t capacity) {
  const std::int64_t slot = place < rows ? place - rows + capacity : place - rows;
  return met_rows > 0 && slot < met_rows ? slot : -1;
}

// What is trained on: logged transitions, which all seeds have in common, and those that each seed
// has met since. Both together are a ring, first in, first out, whose first places the logged ones
// have.
struct Dataset {
  Columns logged{};
  std::int64_t rows = 0;

  // Those of seed s from row s * slots on: number k of them in slot k % capacity.
  Columns met{};
  std::int64_t slots = 0, met_rows = 0;
  std::int64_t capacity = 0;  // of the ring, where transitions are met; no fewer than `rows`

  std::int64_t size() const { return met_rows == 0 ? rows : std::min(rows + met_rows, capacity); }

  // Where a place of the ring is to be read: a row of some columns.
  struct Source {
    const Columns& columns;
    std::int64_t row;
  };
  Source at(int seed_index, std::int64_t place) const {
    const std::int64_t slot = met_slot(place, rows, met_rows, capacity);
    return slot >= 0 ? Source{met, seed_index * slots + slot} : Source{logged, place};
  }
};

// One batch a seed, given by the caller: a leading axis S on the columns.
template <class T>
struct GivenBatch {
  const T *observations, *actions, *rewards, *masks, *next_observations;
};

// The trained networks of one seed and its target critics. A critic's number follows kCritic.
enum NetworkId { kValue = 0, kActor = 1, kCritic = 2 };
// The arrays of one network.
enum ArrayId { kWeights = 0, kFirstMoment = 1, kSecondMoment = 2, kTarget = 3 };

// Sums over steps of each step's batch mean (maximum for weight_max), in double.
struct MetricSums {
  double value_loss = 0, critic_loss = 0, actor_loss = 0, value = 0, q = 0, advantage = 0,
         squared_advantage = 0, weight = 0, weight_max = 0, weight_clipped = 0;
};

// A loss was not finite.
struct Failure {
  std::int64_t step;  // 1-based
  int seed_index;
  const char* network;  // "value", "actor" or "critic", the first in update order
  double q_min, q_max, v_min, v_max;
};

}  // namespace iql::engine
