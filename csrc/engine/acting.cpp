#include "engine/acting.h"

#include <algorithm>

#include "iql/gaussian.h"

namespace iql::engine {

template <class T, class Operand>
Acting<T, Operand>::Acting(const Setup<T, Operand>& setup)
    : setup_(setup),
      input_(round_up(setup.config.obs_dim, setup.kernels.panel)),
      head_(setup.config.act_dim) {
  const auto& widths = setup.config.hidden;
  const int widest = *std::max_element(widths.begin(), widths.end());
  for (auto& each : hidden_) each = Buffer<Operand>(round_up(widest, setup.kernels.panel));
  room_ = Buffer<Operand>(setup.kernels.dense.room(1, widest));
}

template <class T, class Operand>
void Acting<T, Operand>::sample(const Network<T, Operand>& actor, const float* observation,
                                const float* noise, float* action) {
  const NetworkLayout& layout = *actor.layout;
  const cpu::Kernels<T, Operand>& kernels = setup_.kernels;
  const std::size_t P = kernels.panel;  // a matrix of one row: its panels follow on one another
  const T* values = actor.trained.values;
  std::copy_n(observation, layout.hidden[0].inputs, input_.data());
  const HiddenLayer& first = layout.hidden[0];
  kernels.forward({input_.data(), P}, 1, first.inputs, values + first.weight, values + first.bias,
                  first.outputs, {hidden_[0].data(), P});
  for (std::size_t l = 1; l < layout.hidden.size(); ++l) {
    const HiddenLayer& layer = layout.hidden[l];
    kernels.dense.forward({hidden_[(l - 1) % 2].data(), P}, 1, layer.inputs,
                          actor.trained.forward + layer.forward, values + layer.bias, layer.outputs,
                          room_.data(), {hidden_[l % 2].data(), P});
  }
  kernels.head_forward({hidden_[(layout.hidden.size() - 1) % 2].data(), P}, 1, layout.head_inputs,
                       values + layout.head_weight, values + layout.head_bias, layout.outputs,
                       head_.data());
  for (int a = 0; a < layout.outputs; ++a) {
    const T log_std = values[layout.log_std + a];
    action[a] = static_cast<float>(gaussian_sample(head_[a], log_std, T(noise[a])));
  }
}

template class Acting<float>;
template class Acting<double>;
template class Acting<float, BFloat16>;

}  // namespace iql::engine
