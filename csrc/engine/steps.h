// The phases of a step (see cpu_engine.h) in their order, for one member of the team that trains a
// seed.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/batches.h"
#include "engine/config.h"
#include "engine/losses.h"
#include "engine/optimizer.h"
#include "engine/passes.h"
#include "engine/seed.h"
#include "engine/setup.h"
#include "engine/teams.h"
#include "engine/workspace.h"

namespace iql::engine {

template <class T, class Operand = T>
class Steps {
  using Net = Network<T, Operand>;
  using Seed = engine::Seed<T, Operand>;
  using Workspace = engine::Workspace<T, Operand>;

 public:
  explicit Steps(const Setup<T, Operand>& setup)
      : setup_(setup), batches_(setup), passes_(setup), losses_(setup), optimizer_(setup) {}

  // A member's part of `steps` steps, or of fewer where one fails, of the seed that is number
  // `index` of the run. workspaces: one a thread.
  void train_seed(Seed& seed, int index, std::int64_t first_step, std::int64_t steps,
                  const GivenBatch<T>* given, Team& team, int member,
                  const std::vector<std::unique_ptr<Workspace>>& workspaces) const;

 private:
  template <class Draw>
  void step_value_and_actor(Seed& seed, int index, std::int64_t step, const Moment& now,
                            Workspace& w, Workspace& critics, Pair& pair, const Draw& draw) const;
  template <class Draw>
  void step_critics(Seed& seed, std::int64_t step, const Moment& now, Workspace& w,
                    Workspace& value, Pair& pair, const Draw& draw) const;

  const Setup<T, Operand>& setup_;
  const Batches<T, Operand> batches_;
  const Passes<T, Operand> passes_;
  const Losses<T, Operand> losses_;
  const Optimizer<T, Operand> optimizer_;
};

}  // namespace iql::engine
