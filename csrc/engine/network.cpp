#include "engine/network.h"

#include <cstdint>
#include <type_traits>

namespace iql::engine {
namespace {

// Visits the elements of a piece in torch's order with their offset in the network's arrays.
template <class Visit>
void for_elements(const NetworkLayout& layout, int piece, const Visit& visit) {
  const int layer = piece / 2, layers = static_cast<int>(layout.hidden.size());
  const bool is_weight = piece % 2 == 0;
  std::size_t i = 0;
  if (layer < layers) {
    const HiddenLayer& h = layout.hidden[layer];
    const int P = layout.panel;
    for (int out = 0; out < h.outputs; ++out) {
      if (!is_weight) visit(i++, h.bias + out);
      for (int in = 0; is_weight && in < h.inputs; ++in) {
        const std::size_t at = layer == 0 ? (std::size_t(out / P) * h.inputs + in) * P + out % P
                                          : (std::size_t(in / P) * h.outputs + out) * P + in % P;
        visit(i++, h.weight + at);
      }
    }
  } else if (layer == layers) {
    for (int out = 0; out < layout.outputs; ++out) {
      if (!is_weight) visit(i++, layout.head_bias + out);
      for (int in = 0; is_weight && in < layout.head_inputs; ++in) {
        visit(i++, layout.head_weight + std::size_t(out) * layout.head_inputs_padded + in);
      }
    }
  } else {
    for (int a = 0; a < layout.log_stds; ++a) visit(i++, layout.log_std + a);
  }
}

}  // namespace

NetworkLayout::NetworkLayout(int inputs, const std::vector<int>& widths, int outputs_,
                             int log_stds_, int panel_, int alignment)
    : panel(panel_), outputs(outputs_), log_stds(log_stds_) {
  const auto place = [&](std::size_t count) {
    const std::size_t at = size;
    size = round_up(size + count, alignment);
    return at;
  };
  for (const int width : widths) {
    const std::size_t padded = round_up(width, panel);
    HiddenLayer layer{inputs, width, 0, 0, forward_size};
    layer.weight = place(hidden.empty() ? padded * inputs : round_up(inputs, panel) * width);
    layer.bias = place(padded);
    if (!hidden.empty()) forward_size += padded * inputs;
    hidden.push_back(layer);
    inputs = width;
  }
  head_inputs = inputs;
  head_inputs_padded = static_cast<int>(round_up(inputs, panel));
  head_weight = place(std::size_t(outputs) * head_inputs_padded);
  head_bias = place(outputs);
  log_std = place(log_stds);
}

template <class T, class Operand>
Network<T, Operand>::Network(const NetworkLayout& l, bool has_target)
    : layout(&l), arena((has_target ? 4 : 3) * l.size) {
  constexpr bool kRounded = !std::is_same_v<T, Operand>;
  const std::size_t copies = l.forward_size + (kRounded ? l.size : 0);
  operand_arena = Buffer<Operand>((has_target ? 2 : 1) * copies);
  const auto place = [&](T* values, Operand* forward) -> Parameters<T, Operand> {
    if constexpr (kRounded) return {values, forward + l.forward_size, forward};
    if constexpr (!kRounded) return {values, values, forward};
  };
  trained = place(arena.data(), operand_arena.data());
  m = trained.values + l.size;
  v = m + l.size;
  target = {};
  if (has_target) target = place(v + l.size, operand_arena.data() + copies);
}

template <class T, class Operand>
cpu::AdamArrays<T, Operand> Network<T, Operand>::arrays(std::size_t at, bool in_products) const {
  const bool copies = in_products && !std::is_same_v<T, Operand>;
  const auto from = [at](auto* array) { return array != nullptr ? array + at : nullptr; };
  return {trained.values + at,
          m + at,
          v + at,
          from(target.values),
          copies ? from(trained.operands) : nullptr,
          copies ? from(target.operands) : nullptr};
}

template <class T>
void read_piece(const NetworkLayout& layout, const T* values, int piece, T* natural) {
  for_elements(layout, piece, [&](std::size_t i, std::size_t at) { natural[i] = values[at]; });
}

template <class T>
void write_piece(const NetworkLayout& layout, T* values, int piece, const T* natural) {
  for_elements(layout, piece, [&](std::size_t i, std::size_t at) { values[at] = natural[i]; });
}

int piece_count(const NetworkLayout& layout) {
  return 2 * (static_cast<int>(layout.hidden.size()) + 1) + (layout.log_stds > 0 ? 1 : 0);
}

std::size_t piece_size(const NetworkLayout& layout, int piece) {
  std::size_t count = 0;
  for_elements(layout, piece, [&](std::size_t, std::size_t) { ++count; });
  return count;
}

template struct Network<float>;
template struct Network<double>;
template struct Network<float, BFloat16>;
template void read_piece<float>(const NetworkLayout&, const float*, int, float*);
template void read_piece<double>(const NetworkLayout&, const double*, int, double*);
template void write_piece<float>(const NetworkLayout&, float*, int, const float*);
template void write_piece<double>(const NetworkLayout&, double*, int, const double*);

}  // namespace iql::engine
