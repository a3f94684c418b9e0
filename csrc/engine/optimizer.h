// Weight gradients, each followed at once by Adam and Polyak and by the copies of the new weights
// that products take.
#pragma once

#include <vector>

#include "engine/config.h"
#include "engine/network.h"
#include "engine/seed.h"
#include "engine/setup.h"
#include "engine/teams.h"
#include "engine/workspace.h"
#include "iql/adam.h"

namespace iql::engine {

template <class T, class Operand = T>
class Optimizer {
  using Net = Network<T, Operand>;
  using Seed = engine::Seed<T, Operand>;
  using Workspace = engine::Workspace<T, Operand>;

 public:
  explicit Optimizer(const Setup<T, Operand>& setup) : setup_(setup) {}

  // A member's share of a step's updates. The activations and their gradients are in the team's
  // workspace `w`; `scratch` is the member's own.
  void update(Seed& seed, const std::vector<Update>& share, const Moment& now, Workspace& w,
              const Team& team, Workspace& scratch) const;

  // Brings all copies of a network's weights up to date with them.
  void refresh(Net& net) const;

 private:
  void update_weights(Net& net, const Update& update, const AdamStep<T>& adam, T alpha,
                      Workspace& w, const Team& team, Workspace& scratch) const;
  void update_biases(Net& net, const Update& update, const AdamStep<T>& adam, T alpha, Workspace& w,
                     const Team& team, T* gradient) const;
  void update_head(Net& net, int id, const AdamStep<T>& adam, T alpha, Workspace& w,
                   const Team& team, T* gradient) const;
  void copy_panel(Net& net, int layer, int panel) const;

  const Setup<T, Operand>& setup_;
};

}  // namespace iql::engine
