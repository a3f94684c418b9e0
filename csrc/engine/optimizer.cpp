#include "engine/optimizer.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

namespace iql::engine {

using cpu::Rows;

template <class T, class Operand>
void Optimizer<T, Operand>::update(Seed& seed, const std::vector<Update>& share, const Moment& now,
                                   Workspace& w, const Team& team, Workspace& scratch) const {
  const T alpha = T(seed.hyper.polyak);
  const double actor_rate = cosine_schedule(seed.hyper.actor_lr, double(now.actor_updates),
                                            double(setup_.config.actor_schedule_steps));
  for (const Update& update : share) {
    Net& net = seed.networks[update.id];
    const auto [rate, before] =
        update.id == kValue   ? std::pair{seed.hyper.value_lr, now.value_updates}
        : update.id == kActor ? std::pair{actor_rate, now.actor_updates}
                              : std::pair{seed.hyper.critic_lr, now.critic_updates};
    const AdamStep<T> adam = adam_step<T>(rate, double(before + 1));
    switch (update.part) {
      case Update::kWeights:
        update_weights(net, update, adam, alpha, w, team, scratch);
        if (update.layer > 0) break;
        [[fallthrough]];
      case Update::kBiases:
        update_biases(net, update, adam, alpha, w, team, scratch.gradient.data());
        break;
      case Update::kHead:
        update_head(net, update.id, adam, alpha, w, team, scratch.gradient.data());
    }
  }
}

template <class T, class Operand>
void Optimizer<T, Operand>::update_weights(Net& net, const Update& update, const AdamStep<T>& adam,
                                           T alpha, Workspace& w, const Team& team,
                                           Workspace& scratch) const {
  const HiddenLayer& layer = net.layout->hidden[update.layer];
  const int B = setup_.config.batch_size, l = update.layer,
            lines = l == 0 ? layer.inputs : layer.outputs;
  const std::size_t P = setup_.kernels.panel, count = P * lines;  // of a panel
  auto& saved = w.saved[team.slot(update.id)];
  T* gradient = scratch.gradient.data();
  const auto from_panel = [&](const Buffer<Operand>& matrix) {
    const Rows<const Operand> all = setup_.rows(matrix, 0);
    return Rows<const Operand>{all.data + update.panel * all.panel_stride, all.panel_stride};
  };
  const auto listed = [&](const std::vector<char>& blocks) {
    return std::all_of(blocks.begin(), blocks.begin() + team.blocks(), [](char b) { return b; });
  };
  if (l == 0) {
    const Rows<const Operand> d_out = from_panel(saved.gradient[0]);
    for (int p = 0; p < update.panels; ++p) {
      setup_.kernels.weight_gradient(setup_.rows(std::as_const(w.input), 0), B, lines,
                                     d_out.data + p * d_out.panel_stride, gradient + p * count);
    }
  } else if (listed(saved.listed[l - 1])) {
    setup_.kernels.weight_gradient_lists(
        saved.columns[l - 1].in_pieces(team.blocks()), team.bounds.data(), lines,
        from_panel(saved.activation[l - 1]), update.panels, scratch.list_room.data(), gradient);
  } else {
    setup_.kernels.dense.weight_gradient(setup_.rows(std::as_const(saved.gradient[l]), 0), B, lines,
                                         from_panel(saved.activation[l - 1]), update.panels,
                                         scratch.room.data(), gradient);
  }
  setup_.kernels.adam(net.arrays(layer.weight + update.panel * count, l > 0), gradient,
                      update.panels * count, adam, alpha);
  for (int p = update.panel; l > 0 && p < update.panel + update.panels; ++p) copy_panel(net, l, p);
}

template <class T, class Operand>
void Optimizer<T, Operand>::update_biases(Net& net, const Update& update, const AdamStep<T>& adam,
                                          T alpha, Workspace& w, const Team& team,
                                          T* gradient) const {
  const HiddenLayer& layer = net.layout->hidden[update.layer];
  const std::size_t P = setup_.kernels.panel;
  const Rows<const Operand> d_out =
      setup_.rows(std::as_const(w.saved[team.slot(update.id)].gradient[update.layer]), 0);
  for (int p = 0; p < update.panels; ++p) {
    setup_.kernels.bias_gradient(d_out.data + (update.panel + p) * d_out.panel_stride,
                                 setup_.config.batch_size, gradient + p * P);
  }
  setup_.kernels.adam(net.arrays(layer.bias + update.panel * P, false), gradient, update.panels * P,
                      adam, alpha);
}

template <class T, class Operand>
void Optimizer<T, Operand>::update_head(Net& net, int id, const AdamStep<T>& adam, T alpha,
                                        Workspace& w, const Team& team, T* gradient) const {
  const NetworkLayout& layout = *net.layout;
  auto& saved = w.saved[team.slot(id)];
  const auto& d_out = w.heads[id].d_out;
  const std::size_t count = std::size_t(layout.outputs) * layout.head_inputs_padded;
  T* d_bias = gradient + count;
  setup_.kernels.head_gradient(setup_.rows(std::as_const(saved.activation.back()), 0),
                               setup_.config.batch_size, layout.head_inputs, d_out.data(),
                               layout.outputs, gradient, d_bias);
  const auto descend = [&](std::size_t at, const T* g, std::size_t n) {
    setup_.kernels.adam(net.arrays(at, false), g, n, adam, alpha);
  };
  descend(layout.head_weight, gradient, count);
  descend(layout.head_bias, d_bias, layout.outputs);
  if (layout.log_stds > 0) {
    std::fill(gradient, gradient + layout.log_stds, T(0));
    for (int r = 0; r < setup_.config.batch_size; ++r) {
      for (int a = 0; a < layout.log_stds; ++a) {
        gradient[a] += w.d_log_std[std::size_t(r) * layout.log_stds + a];
      }
    }
    descend(layout.log_std, gradient, layout.log_stds);
  }
}

// Brings the copies for the forward pass of a panel of weights up to date.
template <class T, class Operand>
void Optimizer<T, Operand>::copy_panel(Net& net, int l, int panel) const {
  const HiddenLayer& layer = net.layout->hidden[l];
  const std::size_t at = layer.weight + std::size_t(panel) * setup_.kernels.panel * layer.outputs;
  for (const Parameters<T, Operand>& weights : {net.trained, net.target}) {
    if (weights.values == nullptr) continue;
    setup_.kernels.transpose_panel(weights.operands + at, layer.outputs, panel, layer.inputs,
                                   weights.forward + layer.forward);
  }
}

template <class T, class Operand>
void Optimizer<T, Operand>::refresh(Net& net) const {
  constexpr bool kRounded = !std::is_same_v<T, Operand>;
  const std::vector<HiddenLayer>& hidden = net.layout->hidden;
  for (std::size_t l = 1; l < hidden.size(); ++l) {
    const HiddenLayer& layer = hidden[l];
    const int panels = net.layout->panels(layer.inputs);
    for (const Parameters<T, Operand>& weights : {net.trained, net.target}) {
      if (!kRounded || weights.values == nullptr) continue;
      setup_.kernels.operands(weights.values + layer.weight, panels * layer.outputs,
                              weights.operands + layer.weight);
    }
    for (int p = 0; p < panels; ++p) copy_panel(net, static_cast<int>(l), p);
  }
}

template class Optimizer<float>;
template class Optimizer<double>;
template class Optimizer<float, BFloat16>;

}  // namespace iql::engine
