// The losses of a member's rows of the batch, with their gradients at the networks' outputs, and
// what a step reports of them.
#pragma once

#include <cstdint>

#include "engine/config.h"
#include "engine/seed.h"
#include "engine/setup.h"
#include "engine/workspace.h"

namespace iql::engine {

template <class T, class Operand = T>
class Losses {
  using Seed = engine::Seed<T, Operand>;
  using Workspace = engine::Workspace<T, Operand>;

 public:
  explicit Losses(const Setup<T, Operand>& setup) : setup_(setup) {}

  // V's loss and the gradient of its output (equation 5).
  void value_head(const Seed& seed, Workspace& w, int begin, int end) const;

  // The actor's loss (equation 7) and the gradients of its output and its log-std, which
  // read_log_std has read.
  void actor_head(const Seed& seed, Workspace& w, int begin, int end) const;
  void read_log_std(Seed& seed) const;

  // A critic's loss (equation 6), added to those of the critics before it, and the gradient of its
  // output.
  void critic_head(const Seed& seed, int e, Workspace& w, int begin, int end) const;

  // Adds a step's means to the seed's sums; a loss that is not finite is the seed's failure. The
  // seed is number `index` of the run.
  void add_metrics(Seed& seed, int index, std::int64_t step, const Stage& stage,
                   const Workspace& w) const;

 private:
  const Setup<T, Operand>& setup_;
};

}  // namespace iql::engine
