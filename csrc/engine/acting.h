// What the policy's network puts out for single observations, between two steps of training.
#pragma once

#include "engine/network.h"
#include "engine/setup.h"

namespace iql::engine {

template <class T, class Operand = T>
class Acting {
 public:
  explicit Acting(const Setup<T, Operand>& setup);

  // Of one seed's policy: its head [A] for an observation [O].
  void head(const Network<T, Operand>& actor, const T* observation, T* out);

 private:
  const Setup<T, Operand>& setup_;
  Buffer<T> input_;
  Buffer<Operand> hidden_[2], room_;
};

}  // namespace iql::engine
