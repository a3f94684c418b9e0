#include "engine/workspace.h"

#include <algorithm>

namespace iql::engine {

template <class T, class Operand>
Workspace<T, Operand>::Workspace(const Setup<T, Operand>& setup, int blocks, std::size_t slots) {
  const Config& config = setup.config;
  const cpu::Kernels<T, Operand>& kernels = setup.kernels;
  const std::size_t B = config.batch_size, A = config.act_dim, P = kernels.panel;
  const bool lists = kernels.list_density > 0;
  input = Buffer<T>(B * round_up(config.obs_dim + config.act_dim, P));
  next_input = Buffer<T>(B * round_up(config.obs_dim, P));
  for (Buffer<T>* column : {&reward, &mask, &q, &v, &v_next, &target_q, &value_loss, &advantage,
                            &weight, &actor_loss, &critic_loss}) {
    *column = Buffer<T>(B);
  }
  std::size_t largest = 0;
  for (int id = kValue; id < kCritic + config.critics; ++id) {
    const NetworkLayout& layout = setup.layouts.of(id);
    for (const HiddenLayer& layer : layout.hidden) {
      const int lines = std::max(layer.inputs, layer.outputs);
      largest = std::max(largest, lines * P * kernels.panels_together + round_up(layer.outputs, P));
    }
    heads.push_back({Buffer<T>(B * layout.outputs), Buffer<T>(B * layout.outputs)});
    largest = std::max(largest, std::size_t(layout.outputs) * (layout.head_inputs_padded + 1) +
                                    layout.log_stds + 3 * 16);
  }
  saved.resize(slots);
  for (Saved& slot : saved) {
    for (std::size_t l = 0; l < config.hidden.size(); ++l) {
      const std::size_t width = round_up(config.hidden[l], P);
      slot.activation.emplace_back(B * width);
      slot.gradient.emplace_back(B * width);
      if (l == 0) continue;
      slot.columns.emplace_back(lists ? width : 0, blocks);
      slot.listed.emplace_back(blocks);
    }
  }
  int widest = 0;
  for (const int width : config.hidden) {
    scratch.emplace_back(setup.block_rows * round_up(width, P));
    widest = std::max(widest, width);
  }
  row_lists = cpu::ListBuffer<Operand>(lists ? setup.block_rows : 0, kernels.pieces_of(widest));
  list_room = Buffer<T>(lists ? kernels.list_room(setup.block_rows) : 0);
  if (kernels.dense.room != nullptr) {
    room = Buffer<Operand>(kernels.dense.room(config.batch_size, widest));
  }
  gradient = Buffer<T>(largest);
  d_log_std = Buffer<T>(B * A);
  clipped.resize(B);
  rows.resize(B);
}

template struct Workspace<float, float>;
template struct Workspace<double, double>;
template struct Workspace<float, BFloat16>;

}  // namespace iql::engine
