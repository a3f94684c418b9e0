// A step's batch: which transitions are in it, and where the networks read them.
#pragma once

#include <cstdint>

#include "engine/config.h"
#include "engine/seed.h"
#include "engine/setup.h"
#include "engine/workspace.h"

namespace iql::engine {

// What somebody needs of a transition besides its observation and action.
struct Parts {
  bool next_observation, reward_and_mask;
};

template <class T, class Operand = T>
class Batches {
 public:
  explicit Batches(const Setup<T, Operand>& setup) : setup_(setup) {}

  // Draws rows begin ... end of a step's batch, and has them brought near: most lie in main memory.
  void draw_rows(const Seed<T, Operand>& seed, std::int64_t step, Parts parts,
                 Workspace<T, Operand>& w, int begin, int end) const;

  // The transitions of these rows: those that were drawn, or, where a batch is given, those of seed
  // number `index` in it.
  void gather(int index, const GivenBatch<T>* given, Parts parts, Workspace<T, Operand>& w,
              int begin, int end) const;

 private:
  const Setup<T, Operand>& setup_;
};

}  // namespace iql::engine
