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
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <type_traits>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/workers.h"
#include "engine/config.h"
#include "engine/network.h"

namespace iql::engine {

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

  void set_rows(std::int64_t rows) { data_.rows = rows; }

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
  const char* kernel_set() const { return kernels_.name; }
  // How the last steps of seeds were shared that two threads share.
  Sharing sharing() const;

 private:
  struct Seed;
  struct Workspace;
  struct Team;
  struct Pair;
  struct RowShare;
  struct Update;
  // What somebody needs of a transition besides its observation and action.
  struct Parts {
    bool next_observation, reward_and_mask;
  };
  struct Group;
  struct StagePlan;
  using Net = Network<T, Operand>;
  using Weights = Parameters<T, Operand>;
  static constexpr bool kRounded = !std::is_same_v<T, Operand>;

  void make_workspace(int blocks, std::size_t slots);
  std::vector<Update> updates(const std::vector<int>& networks, int members) const;
  bool list_rows(cpu::Rows<const Operand> matrix, int rows, int columns,
                 cpu::Lists<Operand> lists) const;
  int panels(int columns) const { return (columns + kernels_.panel - 1) / kernels_.panel; }
  std::int64_t train(std::int64_t steps, std::int64_t round_steps, const GivenBatch<T>* given,
                     const std::function<bool()>& interrupted);
  void train_seed(int index, std::int64_t first_step, std::int64_t steps,
                  const GivenBatch<T>* given, Team& team, int member);
  template <class Draw>
  void step_value_and_actor(Seed& seed, int index, std::int64_t step, const Moment& now,
                            Workspace& w, Workspace& critics, Pair& pair, const Draw& draw);
  template <class Draw>
  void step_critics(Seed& seed, std::int64_t step, const Moment& now, Workspace& w,
                    Workspace& value, Pair& pair, const Draw& draw);

  // By rows: a member's share of the batch.
  void gather(int index, const GivenBatch<T>* given, Parts parts, Workspace& w, int begin,
              int end) const;
  void draw_rows(const Seed& seed, std::int64_t step, Parts parts, Workspace& w, int begin,
                 int end) const;
  void least_target(const Seed& seed, Workspace& w, const RowShare& share,
                    Workspace& scratch) const;
  void forward(const NetworkLayout& layout, Weights weights, const Buffer<T>& input,
               const RowShare& share, Workspace& scratch, T* out) const;
  void forward_saved(const Net& net, int id, Workspace& w, const Team& team, const RowShare& share,
                     Workspace& scratch, const Seed* dropout, std::int64_t step) const;
  void first_layer(const NetworkLayout& layout, Weights weights, cpu::Rows<const T> in, int m,
                   cpu::Rows<Operand> out) const;
  void inner_layer(const HiddenLayer& layer, Weights weights, cpu::Rows<const Operand> in, int m,
                   Workspace& scratch, cpu::Rows<Operand> out) const;
  void drop(const Seed& seed, std::int64_t step, int layer, int units, cpu::Rows<Operand> rows,
            int begin, int count) const;
  void backward(const Net& net, int id, Workspace& w, const Team& team, const RowShare& share,
                Workspace& scratch, T scale) const;
  void value_head(const Seed& seed, Workspace& w, int begin, int end) const;
  void actor_head(const Seed& seed, Workspace& w, int begin, int end) const;
  void critic_head(const Seed& seed, int e, Workspace& w, int begin, int end) const;

  // By panels: a member's share of the weights.
  void update(Seed& seed, const std::vector<Update>& share, const Moment& now, Workspace& w,
              const Team& team, Workspace& scratch) const;
  void copy_panel(Net& net, int layer, int panel) const;
  void update_weights(Net& net, const Update& update, const AdamStep<T>& adam, T alpha,
                      Workspace& w, const Team& team, Workspace& scratch) const;
  void update_biases(Net& net, const Update& update, const AdamStep<T>& adam, T alpha, Workspace& w,
                     const Team& team, T* gradient) const;
  void update_head(Net& net, int id, const AdamStep<T>& adam, T alpha, Workspace& w,
                   const Team& team, T* gradient) const;

  void read_log_std(Seed& seed) const;
  void add_metrics(Seed& seed, int index, std::int64_t step, const Stage& stage,
                   const Workspace& w) const;
  template <class Element>
  cpu::Rows<Element> rows(Buffer<Element>& matrix, int row) const;
  template <class Element>
  cpu::Rows<const Element> rows(const Buffer<Element>& matrix, int row) const;

  Config config_;
  Dataset data_;
  const cpu::Kernels<T, Operand>& kernels_;
  // Rows that go through all layers of a network together, at most: their activations stay in the
  // L2 cache from one layer to the next.
  const int block_rows_;
  NetworkLayout value_layout_, actor_layout_, critic_layout_;
  std::vector<std::unique_ptr<Seed>> seeds_;
  std::vector<std::unique_ptr<Workspace>> workspaces_;  // one a thread
  std::vector<std::unique_ptr<Team>> alone_;            // one a thread, for seeds of its own
  std::vector<std::unique_ptr<Team>> shared_;           // one for each seed that threads share
  int whole_seeds_ = 0;                                 // seeds that have a thread of their own
  std::unique_ptr<cpu::Workers> workers_;
  std::int64_t step_ = 0;
  std::int64_t round_steps_ = 0;  // steps between two questions whether to go on; 0: not known yet
  std::int64_t metric_steps_ = 0;
  std::optional<Failure> failure_;
};

}  // namespace iql::engine
