// The policy between two steps of training: sampled actions for single observations.
#pragma once

#include "engine/network.h"
#include "engine/setup.h"

namespace iql::engine {

template <class T, class Operand = T>
class Acting {
 public:
  explicit Acting(const Setup<T, Operand>& setup);

  // An action [A] of one seed's policy, not clipped, for an observation [O] and standard normal
  // noise [A].
  void sample(const Network<T, Operand>& actor, const float* observation, const float* noise,
              float* action);

 private:
  const Setup<T, Operand>& setup_;
  Buffer<T> input_, head_;
  Buffer<Operand> hidden_[2], room_;
};

}  // namespace iql::engine
