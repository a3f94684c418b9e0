// The IQL training step on the CPU, for S seeds at once, in fp32, in fp64, or in fp32 with the
// operands of the products between hidden layers rounded to bf16 ("mixed").
//
// One step of a seed is four phases, in the authors' update order:
//   1  by rows:   gather the batch; min of the target critics; V forward, loss and backward;
//                 the actor's and the critics' forward
//   2  by panels: V's weight gradients, each followed at once by Adam
//   3  by rows:   the new V(s) and V(s'); the actor's and the critics' losses and backward
//   4  by panels: their weight gradients, each followed at once by Adam and Polyak
// A stage (config.h) that trains some of the networks only leaves out all that the others alone
// need. Threads share a seed's rows and panels with a barrier after each phase, or two of them its
// networks, or they take whole seeds, which needs no barrier. A result never depends on which it
// was: see cpu/kernels.h.
//
// This file has what a caller sees. The rest of the engine, by what it does:
//   setup.h      the configuration, the kernels, and the networks' layouts, for all of these
//   network.h    one network's parameters, and how they are read and written
//   seed.h       what training changes in one seed
//   workspace.h  what a step needs and does not keep
//   teams.h      who does which rows, weights or networks
//   steps.h      the phases of a step in their order
//   batches.h    which transitions a step trains on, and where it reads them
//   passes.h     phases 1 and 3: forward and backward
//   losses.h     phases 1 and 3: the losses, and what a step reports of them
//   optimizer.h  phases 2 and 4
//   acting.h     the policy between two steps
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "cpu/workers.h"
#include "engine/acting.h"
#include "engine/config.h"
#include "engine/network.h"
#include "engine/setup.h"
#include "engine/teams.h"

namespace iql::engine {

template <class T, class Operand>
struct Seed;
template <class T, class Operand>
struct Workspace;

template <class T, class Operand = T>
class CpuEngine {
 public:
  CpuEngine(Config config, Dataset data);
  ~CpuEngine();

  // Does `steps` steps, or fewer when `interrupted`, asked a few times a second on the calling
  // thread until it says so, does. All seeds have then done the same number of steps. Returns the
  // steps done.
  std::int64_t run(std::int64_t steps, const std::function<bool()>& interrupted);
  void step_on(const GivenBatch<T>& batch);

  // Transitions that are met while training goes on, as Dataset has them; the caller keeps and
  // fills the columns. `met_rows` may grow between runs.
  void meet(const Columns& met, std::int64_t slots, std::int64_t capacity) {
    setup_.data.met = met;
    setup_.data.slots = slots;
    setup_.data.capacity = capacity;
  }
  void set_met_rows(std::int64_t rows) { setup_.data.met_rows = rows; }

  // Sampled actions [S, A], not clipped, for an observation of each seed [S, O] and standard normal
  // noise [S, A].
  void explore(const float* observations, const float* noise, float* actions);
  // Whether the next step's batch, of any seed, has the transition at that place of its ring.
  bool draws_next(std::int64_t place) const;

  std::int64_t step() const { return step_; }
  void set_step(std::int64_t step) { step_ = step; }

  // Pieces as in network.h: `piece` counts the tensors of a network in torch's order.
  int pieces(NetworkId id) const;
  std::size_t piece_size(NetworkId id, int piece) const;
  void read(int seed_index, int network, ArrayId array, int piece, T* natural) const;
  void write(int seed_index, int network, ArrayId array, int piece, const T* natural);
  // To be called after writing weights or targets.
  void refresh();

  // The sums since the last call, one a seed, and the number of steps they cover.
  std::vector<MetricSums> take_metrics(std::int64_t* steps);
  const std::optional<Failure>& failure() const { return failure_; }
  const char* kernel_set() const { return setup_.kernels.name; }
  // How the last steps of seeds were shared that two threads share.
  Sharing sharing() const;

 private:
  using Net = Network<T, Operand>;

  std::int64_t train(std::int64_t steps, std::int64_t round_steps, const GivenBatch<T>* given,
                     const std::function<bool()>& interrupted);

  Setup<T, Operand> setup_;
  cpu::Workers workers_;
  Teams teams_;
  Acting<T, Operand> acting_;
  std::vector<std::unique_ptr<Seed<T, Operand>>> seeds_;
  std::vector<std::unique_ptr<Workspace<T, Operand>>> workspaces_;  // one a thread
  std::int64_t step_ = 0;
  std::int64_t round_steps_ = 0;  // steps between two questions whether to go on; 0: not known yet
  std::int64_t metric_steps_ = 0;
  std::optional<Failure> failure_;
};

}  // namespace iql::engine
