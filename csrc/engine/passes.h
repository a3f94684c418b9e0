// The networks' passes over a member's rows of the batch, block by block: forward, with or without
// what the backward pass needs, and backward to the gradients of every hidden layer.
#pragma once

#include <cstdint>

#include "engine/network.h"
#include "engine/seed.h"
#include "engine/setup.h"
#include "engine/teams.h"
#include "engine/workspace.h"

namespace iql::engine {

// `scratch` is the workspace of the thread at work, `w` the one that its team shares.
template <class T, class Operand = T>
class Passes {
  using Net = Network<T, Operand>;
  using Weights = Parameters<T, Operand>;
  using Seed = engine::Seed<T, Operand>;
  using Workspace = engine::Workspace<T, Operand>;

 public:
  explicit Passes(const Setup<T, Operand>& setup) : setup_(setup) {}

  // Outputs alone, with a network's own weights or its target's.
  void forward(const NetworkLayout& layout, Weights weights, const Buffer<T>& input,
               const RowShare& share, Workspace& scratch, T* out) const;

  // The least of the target critics' values.
  void least_target(const Seed& seed, Workspace& w, const RowShare& share,
                    Workspace& scratch) const;

  // Outputs, with what the backward pass and the weight gradients need of every activation.
  // dropout: the seed whose masks the activations get, or nullptr.
  void forward_saved(const Net& net, int id, Workspace& w, const Team& team, const RowShare& share,
                     Workspace& scratch, const Seed* dropout, std::int64_t step) const;

  // From the head's output gradients to those of every hidden layer. `scale` is dropout's factor on
  // the units it kept.
  void backward(const Net& net, int id, Workspace& w, const Team& team, const RowShare& share,
                Workspace& scratch, T scale) const;

 private:
  void first_layer(const NetworkLayout& layout, Weights weights, cpu::Rows<const T> in, int m,
                   cpu::Rows<Operand> out) const;
  void inner_layer(const HiddenLayer& layer, Weights weights, cpu::Rows<const Operand> in, int m,
                   Workspace& scratch, cpu::Rows<Operand> out) const;
  void drop(const Seed& seed, std::int64_t step, int layer, int units, cpu::Rows<Operand> rows,
            int begin, int count) const;

  const Setup<T, Operand>& setup_;
};

}  // namespace iql::engine
