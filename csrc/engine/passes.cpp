#include "engine/passes.h"

#include <cstddef>
#include <utility>

#include "iql/philox.h"

namespace iql::engine {

using cpu::Rows;

namespace {

template <class T>
Rows<const T> constant(Rows<T> rows) {
  return {rows.data, rows.panel_stride};
}

}  // namespace

// The first hidden layer for m rows.
template <class T, class Operand>
void Passes<T, Operand>::first_layer(const NetworkLayout& layout, Weights weights, Rows<const T> in,
                                     int m, Rows<Operand> out) const {
  const HiddenLayer& layer = layout.hidden[0];
  setup_.kernels.forward(in, m, layer.inputs, weights.values + layer.weight,
                         weights.values + layer.bias, layer.outputs, out);
}

// Another one.
template <class T, class Operand>
void Passes<T, Operand>::inner_layer(const HiddenLayer& layer, Weights weights,
                                     Rows<const Operand> in, int m, Workspace& scratch,
                                     Rows<Operand> out) const {
  const Operand* weight = weights.forward + layer.forward;
  const T* bias = weights.values + layer.bias;
  const cpu::Lists<Operand> lists =
      scratch.row_lists.in_pieces(setup_.kernels.pieces_of(layer.inputs));
  if (setup_.kernels.density(in, m, layer.inputs) <= setup_.list_density.forward) {
    setup_.kernels.list_rows(in, m, layer.inputs, lists);
    setup_.kernels.forward_lists(lists, m, layer.inputs, weight, bias, layer.outputs,
                                 scratch.list_room.data(), out);
  } else {
    setup_.kernels.dense.forward(in, m, layer.inputs, weight, bias, layer.outputs,
                                 scratch.room.data(), out);
  }
}

template <class T, class Operand>
void Passes<T, Operand>::forward(const NetworkLayout& layout, Weights weights,
                                 const Buffer<T>& input, const RowShare& share, Workspace& scratch,
                                 T* out) const {
  const std::size_t block_stride = std::size_t(setup_.block_rows) * setup_.kernels.panel;
  for (int block = share.first; block < share.last; ++block) {
    const int row = share.bounds[block], m = share.bounds[block + 1] - row;
    Rows<Operand> hidden{scratch.scratch[0].data(), block_stride};
    first_layer(layout, weights, setup_.rows(input, row), m, hidden);
    for (std::size_t l = 1; l < layout.hidden.size(); ++l) {
      const Rows<Operand> result{scratch.scratch[l].data(), block_stride};
      inner_layer(layout.hidden[l], weights, constant(hidden), m, scratch, result);
      hidden = result;
    }
    setup_.kernels.head_forward(
        constant(hidden), m, layout.head_inputs, weights.values + layout.head_weight,
        weights.values + layout.head_bias, layout.outputs, out + std::size_t(row) * layout.outputs);
  }
}

template <class T, class Operand>
void Passes<T, Operand>::least_target(const Seed& seed, Workspace& w, const RowShare& share,
                                      Workspace& scratch) const {
  for (int e = 0; e < setup_.config.critics; ++e) {
    const Net& critic = seed.networks[kCritic + e];
    T* out = e == 0 ? w.q.data() : w.target_q.data();
    forward(setup_.layouts.critic, critic.target, w.input, share, scratch, out);
    for (int r = share.begin(); e > 0 && r < share.end(); ++r) {
      if (!(w.q[r] <= w.target_q[r])) w.q[r] = w.target_q[r];
    }
  }
}

template <class T, class Operand>
void Passes<T, Operand>::forward_saved(const Net& net, int id, Workspace& w, const Team& team,
                                       const RowShare& share, Workspace& scratch,
                                       const Seed* dropout, std::int64_t step) const {
  const NetworkLayout& layout = *net.layout;
  const int last = static_cast<int>(layout.hidden.size()) - 1;
  auto& saved = w.saved[team.slot(id)];
  for (int block = share.first; block < share.last; ++block) {
    const int row = share.bounds[block], m = share.bounds[block + 1] - row;
    const auto finish = [&](int l) {
      if (dropout == nullptr || setup_.config.actor_dropout == 0) return;
      drop(*dropout, step, l, layout.hidden[l].outputs, setup_.rows(saved.activation[l], row), row,
           m);
    };
    first_layer(layout, net.trained, setup_.rows(std::as_const(w.input), row), m,
                setup_.rows(saved.activation[0], row));
    finish(0);
    for (int l = 1; l <= last; ++l) {
      inner_layer(layout.hidden[l], net.trained,
                  setup_.rows(std::as_const(saved.activation[l - 1]), row), m, scratch,
                  setup_.rows(saved.activation[l], row));
      finish(l);
    }
    setup_.kernels.head_forward(setup_.rows(std::as_const(saved.activation[last]), row), m,
                                layout.head_inputs, net.trained.values + layout.head_weight,
                                net.trained.values + layout.head_bias, layout.outputs,
                                w.heads[id].out.data() + std::size_t(row) * layout.outputs);
  }
}

// Dropout of one layer's activations: batch rows begin ... begin + count.
template <class T, class Operand>
void Passes<T, Operand>::drop(const Seed& seed, std::int64_t step, int layer, int units,
                              Rows<Operand> rows, int begin, int count) const {
  const Dropout dropout{seed.key, static_cast<std::uint64_t>(step),
                        static_cast<std::uint32_t>(kDropoutStream + layer),
                        setup_.config.actor_dropout};
  for (int r = 0; r < count; ++r) {
    setup_.kernels.drop({rows.data + std::size_t(r) * setup_.kernels.panel, rows.panel_stride},
                        units, dropout, std::int64_t(begin + r) * units);
  }
}

template <class T, class Operand>
void Passes<T, Operand>::backward(const Net& net, int id, Workspace& w, const Team& team,
                                  const RowShare& share, Workspace& scratch, T scale) const {
  const NetworkLayout& layout = *net.layout;
  auto& saved = w.saved[team.slot(id)];
  const int last = static_cast<int>(layout.hidden.size()) - 1;
  for (int block = share.first; block < share.last; ++block) {
    const int row = share.bounds[block], m = share.bounds[block + 1] - row;
    const auto activation = [&](int l) {
      return setup_.rows(std::as_const(saved.activation[l]), row);
    };
    setup_.kernels.head_backward(w.heads[id].d_out.data() + std::size_t(row) * layout.outputs, m,
                                 layout.outputs, net.trained.values + layout.head_weight,
                                 activation(last), layout.head_inputs, scale,
                                 setup_.rows(saved.gradient[last], row));
    for (int l = last; l > 0; --l) {
      const HiddenLayer& layer = layout.hidden[l];
      const Rows<const Operand> d_out = setup_.rows(std::as_const(saved.gradient[l]), row);
      const Rows<Operand> d_in = setup_.rows(saved.gradient[l - 1], row);
      const cpu::Lists<Operand> lists =
          scratch.row_lists.in_pieces(setup_.kernels.pieces_of(layer.outputs));
      const Operand* weight = net.trained.operands + layer.weight;
      const double density = setup_.kernels.density(d_out, m, layer.outputs);
      const bool for_weights = density <= setup_.list_density.weights;
      saved.listed[l - 1][block] = for_weights;
      if (for_weights) {
        setup_.kernels.list_columns(d_out, m, layer.outputs,
                                    saved.columns[l - 1].in_pieces(share.blocks), block);
      }
      if (density <= setup_.list_density.backward) {
        setup_.kernels.list_rows(d_out, m, layer.outputs, lists);
        setup_.kernels.backward_lists(lists, m, layer.outputs, weight, activation(l - 1),
                                      layer.inputs, scale, scratch.list_room.data(), d_in);
      } else {
        setup_.kernels.dense.backward(d_out, m, layer.outputs, weight, activation(l - 1),
                                      layer.inputs, scale, scratch.room.data(), d_in);
      }
    }
  }
}

template class Passes<float>;
template class Passes<double>;
template class Passes<float, BFloat16>;

}  // namespace iql::engine
