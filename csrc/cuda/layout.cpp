#include "cuda/layout.h"

#include <algorithm>

#include "iql/philox.h"

namespace iql::cuda {
namespace {

NetworkLayout plan_network(int inputs, const std::vector<int>& hidden, int outputs, int log_stds,
                           int padded_batch) {
  NetworkLayout net{};
  const auto place = [](int& size, int count) {
    const int at = size;
    size += count;
    return at;
  };
  for (const int width : hidden) {
    HiddenLayout& layer = net.hidden[net.depth];
    layer.inputs = inputs;
    layer.outputs = width;
    layer.rows = padded(inputs);
    layer.columns = padded(width);
    layer.weight = place(net.size, layer.rows * layer.columns);
    layer.bias = place(net.size, layer.columns);
    layer.forward = place(net.operand_size, layer.rows * layer.columns);
    layer.backward = net.depth > 0 ? place(net.operand_size, layer.rows * layer.columns) : -1;
    layer.activation = place(net.workspace_size, padded_batch * layer.columns);
    layer.gradient = place(net.workspace_size, padded_batch * layer.columns);
    inputs = width;
    ++net.depth;
  }
  net.head_inputs = padded(inputs);
  net.outputs = outputs;
  net.head_columns = outputs + log_stds;
  net.head_weight = place(net.size, padded(outputs * net.head_inputs));
  net.head_bias = place(net.size, padded(net.head_columns));
  net.head_gradient = place(net.workspace_size, padded_batch * padded(net.head_columns));
  return net;
}

}  // namespace

Problem plan(const engine::Config& config) {
  Problem p{};
  p.obs_dim = config.obs_dim;
  p.act_dim = config.act_dim;
  p.critics = config.critics;
  p.batch = config.batch_size;
  p.padded_batch = padded(config.batch_size, kRowPad);
  p.seeds = static_cast<int>(config.seeds.size());
  p.input_columns = padded(config.obs_dim + config.act_dim);
  p.widest = p.input_columns;
  for (const int width : config.hidden) p.widest = std::max(p.widest, padded(width));
  p.old_value = config.old_value;
  p.deterministic_policy = config.deterministic_policy;
  p.dropout = config.actor_dropout > 0;
  p.drop_below = dropout_threshold(config.actor_dropout);
  p.kept = static_cast<float>(1.0 / (1.0 - config.actor_dropout));
  p.actor_schedule_steps = config.actor_schedule_steps;
  p.value = plan_network(config.obs_dim, config.hidden, 1, 0, p.padded_batch);
  p.actor =
      plan_network(config.obs_dim, config.hidden, config.act_dim, config.act_dim, p.padded_batch);
  p.critic = plan_network(config.obs_dim + config.act_dim, config.hidden, 1, 0, p.padded_batch);
  return p;
}

}  // namespace iql::cuda
