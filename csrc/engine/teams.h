// How threads share the work of training: seeds, and within a seed rows of the batch and weights to
// update, or networks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "cpu/faster_way.h"
#include "cpu/workers.h"
#include "engine/config.h"
#include "engine/setup.h"

namespace iql::engine {

// A member's rows of the batch: blocks [first, last), block b being rows bounds[b] ... bounds[b +
// 1].
struct RowShare {
  const int* bounds;
  int blocks;  // of all members
  int first, last;
  int begin() const { return bounds[first]; }
  int end() const { return bounds[last]; }
};

// The work of an update that one thread does at a time.
struct Update {
  // Panels of a hidden layer's weights (of the first layer's and of its biases: both have to do
  // with the same columns of the gradient), panels of another's biases, or a network's head.
  enum Part { kWeights, kBiases, kHead };

  int id;
  Part part;
  int layer;
  int panel, panels;
  std::int64_t cost;  // the time that it takes, in that of a line of a panel
};

// Networks that a team trains together, with one barrier between their rows and their weights, and
// each member's updates of them.
struct Group {
  std::vector<int> ids;
  std::vector<std::vector<Update>> updates;
};

// A step of one stage: V, and then the others, group by group.
struct StagePlan {
  Group value;
  std::vector<Group> others;  // one at least
};

struct Pair;

// Threads that train one seed together; they share the workspace of the first.
struct Team {
  // Rows are shared out evenly and, within a member's share, cut into even blocks, at most so long.
  Team(int size, int first_thread, int batch_size, int block_rows, int together, bool apart);

  int blocks() const { return static_cast<int>(bounds.size()) - 1; }
  RowShare block(int b) const { return {bounds.data(), blocks(), b, b + 1}; }
  RowShare rows(int member) const {
    return {bounds.data(), blocks(), first_block[member], first_block[member + 1]};
  }

  // Which of the workspace's activations are a network's. All networks of a thread alone share
  // them. In a team some members may still be at the weights of one group while others are at the
  // rows of the next, but of no later one; V has the team to itself.
  int group(int id) const { return (id - kActor) / together; }
  int slot(int id) const {
    if (apart) return id < kCritic ? id : id - kCritic;
    if (size == 1 || id == kValue) return 0;
    return group(id) % 2 * together + (id - kActor) % together;
  }
  std::size_t slots() const { return apart ? 2 : size == 1 ? 1 : 2 * together; }

  const int size, first_thread;
  const int together;  // networks besides V in a group
  const bool apart;    // whether two members of a pair have two networks each
  cpu::Barrier barrier;
  std::vector<int> bounds;       // of the blocks of rows
  std::vector<int> first_block;  // of each member, and the number of blocks
  std::vector<StagePlan> plans;  // of each stage
  std::unique_ptr<Pair> pair;    // if there is one
  bool stop = false;             // written by member 0 before a barrier, read after it
};

// Two members who share a seed out by networks: the first has V and the actor, the other two
// critics and their targets, eight products of the hidden layers' size each. Weights and
// activations stay with the core that changes them, and only columns of the batch change hands.
struct Pair {
  Team alone;                     // as either is within its networks
  cpu::Signal q{}, next_value{};  // of a block of a step
  cpu::Signal critic_loss{};      // of a step, counted from 1
  bool by_networks = true;        // or by rows; written by member 0 before a barrier
  cpu::FasterWay faster{};        // 0: by networks, 1: by rows

  std::int64_t number(std::int64_t step, int block) const {
    return step * alone.blocks() + block + 1;
  }
  void reset() {
    for (cpu::Signal* signal : {&q, &next_value, &critic_loss}) signal->post(0);
  }
};

// The teams of a training run. Whole seeds go to threads while there are at least as many seeds as
// threads; threads share what is left.
struct Teams {
  // block_rows, panels_together: how finely the kernels want rows and weights to be cut.
  Teams(const Config& config, const Layouts& layouts, int block_rows, int panels_together,
        int threads);

  int whole_seeds = 0;                        // seeds that have a thread of their own
  std::vector<std::unique_ptr<Team>> alone;   // one a thread, for seeds of its own
  std::vector<std::unique_ptr<Team>> shared;  // one for each seed that threads share

  struct Needs {
    int blocks = 0;
    std::size_t slots = 0;
  };
  std::vector<Needs> needs;  // of a thread's workspace
};

}  // namespace iql::engine
