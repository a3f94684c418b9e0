// Where everything lies in device memory. Plain structs, which the kernels take by value.
//
// Every matrix is padded with zeros to multiples of kPad in both dimensions, and the batch to
// kRowPad rows, so that no loop of a product has a remainder. Padding stays zero by itself: its
// gradients are products with zeros.
#pragma once

#include <cstdint>

#include "engine/config.h"
#include "iql/adam.h"
#include "iql/host_device.h"

namespace iql::cuda {

constexpr int kPad = 16;
constexpr int kRowPad = 64;
constexpr int kMaxHidden = 4;  // layers

IQL_HD inline int padded(int n, int multiple = kPad) {
  return (n + multiple - 1) / multiple * multiple;
}

// A hidden layer: offsets in floats within its network's arrays.
struct HiddenLayout {
  int inputs, outputs;
  int rows, columns;  // the two, padded
  int weight;         // [rows][columns]: of the parameters
  int bias;           // [columns]
  int forward;        // of the operands: the weights as the products of the forward pass and
  int backward;       // of the backward pass read them; backward from the second layer on
  int activation;     // [padded batch][columns]: of the workspace
  int gradient;       // [padded batch][columns]
};

struct NetworkLayout {
  int depth;  // hidden layers
  HiddenLayout hidden[kMaxHidden];
  int head_inputs;     // padded
  int outputs;         // of the network
  int head_columns;    // of the head's gradient: the outputs', then the log-stds'
  int head_weight;     // [outputs][head_inputs]: of the parameters
  int head_bias;       // [padded head_columns]: the outputs' biases, then the log-stds
  int size;            // of the parameters
  int operand_size;    // of the operands
  int head_gradient;   // [padded batch][padded head_columns]: of the workspace
  int workspace_size;  // of the workspace
};

// Numbers of one row of a seed's batch, each a column [padded batch].
enum Column {
  kReward,
  kMask,
  kValueBefore,  // V(s) before the step
  kValueNow,     // V(s) and V(s') that the actor's and the critics' losses read
  kNextValue,
  kFit,          // log-likelihood of the action
  kFirstCritic,  // then the other critics, then the targets
};

// Where batches come from. It lies in device memory, so that a graph that was captured with one
// dataset runs on another.
struct Source {
  const float *observations, *actions, *rewards, *masks, *next_observations;
  std::int64_t rows;
  // The rows are one batch for each seed, in order, rather than a dataset to draw from.
  bool given;

  // Transitions to draw from: those rows, and what was met since, which engine::Dataset explains.
  std::int64_t size;
  const float* met;  // [slots][S][Problem::record_size()]
  std::int64_t met_rows, capacity;
};

// A seed's step that runs and its next one. A step's first kernel sets `now` and its last one
// `next`; none reads what it may itself change. Each seed has its own, since not all need be
// trained at the same time (cuda/resident.h).
struct Clock {
  std::int64_t now, next;
};

// What the first step with a loss that is not finite left behind; step 0 where there was none.
struct FailureRecord {
  std::int64_t step;
  int network;  // 0 value, 1 actor, 2 critic
  float q_min, q_max, v_min, v_max;
};

struct Problem {
  int obs_dim, act_dim, critics, batch, padded_batch, seeds;
  int input_columns;  // padded obs_dim + act_dim
  int widest;         // the widest activation, padded
  bool old_value, deterministic_policy;
  bool dropout;              // of the actor
  std::uint32_t drop_below;  // drops units whose random word is below this
  float kept;                // what a unit that is kept is multiplied by
  std::int64_t actor_schedule_steps;
  NetworkLayout value, actor, critic;

  // Device memory. A network's parameters are [weights | m | v], a critic's [... | target]; its
  // operands are those of the weights, a critic's then those of the target. Networks follow each
  // other as engine::NetworkId counts them, and seeds follow each other.
  float* parameters;
  float* operands;
  float* workspace;  // of a seed: the batch's input [padded batch][input_columns] and next input
                     // [padded batch][V's padded inputs], the columns, the networks' workspaces
  const std::uint64_t* keys;                 // [S]
  const engine::SeedHyperparameters* hyper;  // [S]
  AdamStep<float>* adam;                     // [S][3]: of value, actor, critic at this step
  engine::MetricSums* metrics;               // [S]
  FailureRecord* failures;                   // [S]
  Clock* clocks;                             // [S]
  const Source* source;

  IQL_HD int networks() const { return 2 + critics; }
  IQL_HD int columns() const { return kFirstCritic + 2 * critics; }
  // A transition that was met is a record: observation, action, next observation, reward, mask.
  IQL_HD int record_size() const { return 2 * obs_dim + act_dim + 2; }
  IQL_HD int next_observation_of_record() const { return obs_dim + act_dim; }
  IQL_HD int reward_of_record() const { return 2 * obs_dim + act_dim; }
  IQL_HD int mask_of_record() const { return 2 * obs_dim + act_dim + 1; }
  IQL_HD const NetworkLayout& layout(int network) const {
    return network == engine::kValue ? value : network == engine::kActor ? actor : critic;
  }

  // Floats before a network in a seed's share of each array; the seed's share is that before the
  // network past the last.
  IQL_HD std::int64_t before(int network, int of_value, int of_actor, int of_critic) const {
    if (network == engine::kValue) return 0;
    if (network == engine::kActor) return of_value;
    return std::int64_t(of_value) + of_actor + std::int64_t(network - engine::kCritic) * of_critic;
  }
  IQL_HD std::int64_t parameters_before(int network) const {
    return before(network, 3 * value.size, 3 * actor.size, 4 * critic.size);
  }
  IQL_HD std::int64_t operands_before(int network) const {
    return before(network, value.operand_size, actor.operand_size, 2 * critic.operand_size);
  }
  IQL_HD std::int64_t workspace_before(int network) const {
    return std::int64_t(padded_batch) * (input_columns + value.hidden[0].rows + columns()) +
           before(network, value.workspace_size, actor.workspace_size, critic.workspace_size);
  }

  IQL_HD float* parameters_of(int seed, int network) const {
    return parameters + seed * parameters_before(networks()) + parameters_before(network);
  }
  IQL_HD float* operands_of(int seed, int network) const {
    return operands + seed * operands_before(networks()) + operands_before(network);
  }
  IQL_HD float* input(int seed) const { return workspace + seed * workspace_before(networks()); }
  IQL_HD float* next_input(int seed) const {
    return input(seed) + std::int64_t(padded_batch) * input_columns;
  }
  IQL_HD float* column(int seed, int which) const {
    return next_input(seed) + std::int64_t(padded_batch) * (value.hidden[0].rows + which);
  }
  IQL_HD float* workspace_of(int seed, int network) const {
    return input(seed) + workspace_before(network);
  }
};

// Lays out a problem; pointers are left null.
Problem plan(const engine::Config& config);

}  // namespace iql::cuda
