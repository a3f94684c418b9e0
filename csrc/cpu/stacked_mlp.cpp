#include "cpu/stacked_mlp.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <numeric>
#include <utility>

#include "cpu/memory.h"

namespace iql::cpu {

namespace {

// Rows of the backward pass that are in memory at a time: their gradients and lists.
constexpr std::int64_t kChunkRows = 1024;

std::int64_t ceiling(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Part of a row. Of a whole panel's width it is copied in place, since a call costs more.
template <class T>
inline void copy(const T* from, int width, T* to) {
  switch (width) {
    case 8:
      std::memcpy(to, from, 8 * sizeof(T));
      break;
    case 16:
      std::memcpy(to, from, 16 * sizeof(T));
      break;
    case 32:
      std::memcpy(to, from, 32 * sizeof(T));
      break;
    default:
      std::memcpy(to, from, width * sizeof(T));
  }
}

// Some rows of a matrix [rows, columns] into a panel matrix; and back.
template <class T>
void to_panels(const T* from, std::int64_t rows, int columns, int P, Rows<T> to) {
  for (int c = 0; c < columns; c += P) {
    const int width = std::min(P, columns - c);
    T* panel = to.data + c / P * to.panel_stride;
    for (std::int64_t r = 0; r < rows; ++r, panel += P) {
      copy(from + r * columns + c, width, panel);
      if (width < P) std::memset(panel + width, 0, (P - width) * sizeof(T));
    }
  }
}

// `bias`: is added to each row; null: none is.
template <class T>
void from_panels(Rows<const T> from, std::int64_t rows, int columns, int P, const T* bias, T* to) {
  for (int c = 0; c < columns; c += P) {
    const int width = std::min(P, columns - c);
    const T* panel = from.data + c / P * from.panel_stride;
    for (std::int64_t r = 0; r < rows; ++r, panel += P) {
      T* row = to + r * columns + c;
      if (bias != nullptr) {
        for (int i = 0; i < width; ++i) row[i] = panel[i] + bias[c + i];
      } else {
        copy(panel, width, row);
      }
    }
  }
}

}  // namespace

template <class T>
StackedMlp<T>::StackedMlp(int nets, std::vector<int> sizes, std::int64_t rows, int threads,
                          ShareOut share_out)
    : nets_(nets),
      sizes_(std::move(sizes)),
      rows_(rows),
      threads_(threads),
      share_out_(std::move(share_out)),
      kernels_(kernels<T>()) {}

template <class T>
std::size_t StackedMlp<T>::padded(int columns) const {
  return ceiling(columns, kernels_.panel) * kernels_.panel;
}

// Rows that go through all layers together: few enough that their activations stay in the L2 cache
// and that there is a block for each thread.
template <class T>
int StackedMlp<T>::block_rows(std::int64_t rows) const {
  const std::int64_t each = ceiling(rows * nets_, threads_);
  return static_cast<int>(std::clamp<std::int64_t>(ceiling(each, 16) * 16, 32, kernels_.piece));
}

// Calls body for ranges of items, shared out so that what the items cost is much the same for each
// thread.
template <class T>
void StackedMlp<T>::share_by_cost(const std::vector<std::int64_t>& costs,
                                  const std::function<void(Range)>& body) const {
  const auto count = static_cast<std::int64_t>(costs.size());
  const std::int64_t total = std::accumulate(costs.begin(), costs.end(), std::int64_t{0});
  std::vector<std::int64_t> bounds{0};  // of each thread's items
  std::int64_t before = 0;
  for (std::int64_t i = 0; i < count; before += costs[i++]) {
    // A thread's share ends at the item whose middle lies past it.
    while (static_cast<int>(bounds.size()) < threads_ &&
           (2 * before + costs[i]) * threads_ >
               2 * total * static_cast<std::int64_t>(bounds.size())) {
      bounds.push_back(i);
    }
  }
  bounds.resize(threads_ + 1, count);
  share_out_(threads_, [&](Range threads) {
    for (std::int64_t t = threads.begin; t < threads.end; ++t) body({bounds[t], bounds[t + 1]});
  });
}

// Every net's weights as the kernels read them.
template <class T>
struct StackedMlp<T>::Packed {
  std::vector<std::size_t> weight, bias;  // of layer l within a net
  std::size_t net = 0;                    // elements of a net
  std::unique_ptr<Buffer<T>> values;

  const T* weights_of(int e, int l) const { return values->data() + e * net + weight[l]; }
  const T* biases_of(int e, int l) const { return values->data() + e * net + bias[l]; }
};

// For the forward pass weights and biases, for the backward pass transposed weights; of the first
// layer only where its input has a gradient.
template <class T>
typename StackedMlp<T>::Packed StackedMlp<T>::pack(Layers<T> layers, bool forward,
                                                   bool input_gradient) const {
  const int P = kernels_.panel;
  Packed packed;
  struct Part {
    int net, layer, panel;
  };
  std::vector<Part> parts;
  std::vector<std::int64_t> costs;
  for (int l = 0; l < all_layers(); ++l) {
    const int k = sizes_[l], n = sizes_[l + 1];
    packed.weight.push_back(packed.net);
    // Transposed they are [n, k].
    packed.net += is_head(l) ? n * padded(k) : forward ? k * padded(n) : padded(n) * padded(k);
    packed.bias.push_back(packed.net);
    packed.net += padded(n);
  }
  for (int e = 0; e < nets_; ++e) {
    for (int l = 0; l < all_layers(); ++l) {
      if (l == 0 && !forward && !input_gradient) continue;
      for (int p = 0; p < (is_head(l) ? 1 : panels(sizes_[l + 1])); ++p) {
        parts.push_back({e, l, p});
        costs.push_back(std::int64_t(sizes_[l]) * std::min(P, sizes_[l + 1]));
      }
    }
  }
  packed.values = std::make_unique<Buffer<T>>(nets_ * packed.net, Contents::kAny);
  share_by_cost(costs, [&](Range range) {
    Buffer<T> panel(forward ? 0 : *std::max_element(sizes_.begin(), sizes_.end()) * P,
                    Contents::kAny);
    for (std::int64_t i = range.begin; i < range.end; ++i) {
      const auto [e, l, p] = parts[i];
      const int k = sizes_[l], n = sizes_[l + 1];
      const T* weight = layers.weight[l] + std::int64_t(e) * k * n;
      T* to = packed.values->data() + e * packed.net + packed.weight[l];
      if (forward && p == 0) {
        T* bias = packed.values->data() + e * packed.net + packed.bias[l];
        std::memcpy(bias, layers.bias[l] + e * n, n * sizeof(T));
        std::fill(bias + n, bias + padded(n), T(0));
      }
      if (is_head(l)) {
        for (int j = 0; j < n; ++j) {
          T* row = to + j * padded(k);
          for (int c = 0; c < k; ++c) row[c] = weight[std::int64_t(c) * n + j];
          std::fill(row + k, row + padded(k), T(0));
        }
        continue;
      }
      T* into = forward ? to + std::size_t(p) * k * P : panel.data();
      const int width = std::min(P, n - p * P);
      for (int r = 0; r < k; ++r) {
        copy(weight + std::int64_t(r) * n + p * P, width, into + r * P);
        if (width < P) std::fill(into + r * P + width, into + (r + 1) * P, T(0));
      }
      if (!forward) kernels_.transpose_panel(into, k, p, n, to);
    }
  });
  return packed;
}

template <class T>
Rows<const T> StackedMlp<T>::hidden_rows(const T* const* hidden, int layer, int net,
                                         std::int64_t row) const {
  const std::size_t P = kernels_.panel;
  return {hidden[layer] + net * rows_ * kept_columns(sizes_[layer + 1]) + row * P, rows_ * P};
}

template <class T>
void StackedMlp<T>::layer_forward(const T* weight, const T* bias, Rows<const T> in, int m, int k,
                                  int n, bool after_relu, Lists<T> lists, T* room,
                                  Rows<T> out) const {
  if (after_relu && kernels_.sparse(in, m, k)) {
    kernels_.list_rows(in, m, k, lists);
    kernels_.forward_lists(lists, m, k, weight, bias, n, room, out);
  } else {
    kernels_.dense.forward(in, m, k, weight, bias, n, nullptr, out);
  }
}

// d_in = d_out * weight^T where `in` > 0.
template <class T>
void StackedMlp<T>::layer_backward(const T* weight_t, Rows<const T> d_out, int m, int n,
                                   Rows<const T> in, int k, Lists<T> lists, T* room,
                                   Rows<T> d_in) const {
  if (kernels_.sparse(d_out, m, n)) {
    kernels_.list_rows(d_out, m, n, lists);
    kernels_.backward_lists(lists, m, n, weight_t, in, k, T(1), room, d_in);
  } else {
    kernels_.dense.backward(d_out, m, n, weight_t, in, k, T(1), nullptr, d_in);
  }
}

template <class T>
void StackedMlp<T>::forward(const T* x, bool shared, Layers<T> layers, T* const* hidden,
                            T* out) const {
  const Packed packed = pack(layers, true, false);
  const int P = kernels_.panel, last = hidden_layers(), inputs = sizes_[0], outputs = sizes_.back();
  const int most = block_rows(rows_), widest = *std::max_element(sizes_.begin(), sizes_.end() - 1);
  const std::int64_t blocks = ceiling(rows_, most);
  const std::size_t stride = std::size_t(most) * P;
  share_out_(nets_ * blocks, [&](Range range) {
    Buffer<T> first(stride * panels(inputs), Contents::kAny);
    Buffer<T> turns(hidden == nullptr ? 2 * stride * panels(widest) : 0, Contents::kAny);
    ListBuffer<T> lists(most, kernels_.pieces_of(widest), Contents::kAny);
    Buffer<T> room(kernels_.list_room(most), Contents::kAny);
    // The last layer has no ReLU. Where it is no head it is computed as a gradient is that passes
    // everywhere.
    const std::size_t output_block = is_head(last) ? 0 : stride * panels(outputs);
    Buffer<T> everywhere(output_block, Contents::kAny), output(output_block, Contents::kAny);
    std::fill(everywhere.data(), everywhere.data() + output_block, T(1));
    for (std::int64_t i = range.begin; i < range.end; ++i) {
      const int e = static_cast<int>(i / blocks);
      const std::int64_t row = i % blocks * most;
      const int m = static_cast<int>(std::min<std::int64_t>(most, rows_ - row));
      to_panels<T>(x + ((shared ? 0 : e * rows_) + row) * inputs, m, inputs, P,
                   {first.data(), stride});
      Rows<const T> in{first.data(), stride};
      for (int l = 0; l < last; ++l) {
        Rows<T> result{turns.data() + l % 2 * stride * panels(widest), stride};
        if (hidden != nullptr) {
          const Rows<const T> kept = hidden_rows(hidden, l, e, row);
          result = {const_cast<T*>(kept.data), kept.panel_stride};
        }
        layer_forward(packed.weights_of(e, l), packed.biases_of(e, l), in, m, sizes_[l],
                      sizes_[l + 1], l > 0, lists.in_pieces(kernels_.pieces_of(sizes_[l])),
                      room.data(), result);
        in = {result.data, result.panel_stride};
      }
      const T *weight = packed.weights_of(e, last), *bias = packed.biases_of(e, last);
      T* to = out + (e * rows_ + row) * outputs;
      if (is_head(last)) {
        kernels_.head_forward(in, m, sizes_[last], weight, bias, outputs, to);
      } else {
        layer_backward(weight, in, m, sizes_[last], {everywhere.data(), stride}, outputs,
                       lists.in_pieces(kernels_.pieces_of(sizes_[last])), room.data(),
                       {output.data(), stride});
        from_panels<T>({output.data(), stride}, m, outputs, P, bias, to);
      }
    }
  });
}

// Some rows of the backward pass, of all nets: `gradient` of what each layer of panels puts out,
// and the lists of the columns of what goes into it, a piece for each block of rows.
template <class T>
struct StackedMlp<T>::Chunk {
  std::int64_t begin, rows;
  int block, blocks;  // rows of a block; blocks of a net
  std::size_t stride;

  std::vector<std::unique_ptr<Buffer<T>>> gradient;  // [layer]: [E][panels][chunk rows][P]
  std::vector<std::size_t> gradient_net;             // elements of a net in each
  std::unique_ptr<Buffer<T>> input;                  // x: the same, [E]
  std::size_t input_net;
  std::vector<std::unique_ptr<ListBuffer<T>>> columns;  // [net][layer], of the layer's input
  std::vector<char> listed;                             // [net][layer][block]

  Rows<T> gradient_rows(int l, int e, std::int64_t row, int P) const {
    return {gradient[l]->data() + e * gradient_net[l] + row * P, stride};
  }
  Rows<T> input_rows(int e, std::int64_t row, int P) const {
    return {input->data() + e * input_net + row * P, stride};
  }
};

template <class T>
void StackedMlp<T>::backward(const T* d_out, const T* x, bool shared, Layers<T> layers,
                             const T* const* hidden, T* d_x, T* const* d_weight,
                             T* const* d_bias) const {
  const Packed packed = pack(layers, false, d_x != nullptr);
  const int P = kernels_.panel, products = panel_layers();
  const std::int64_t most = std::min(kChunkRows, rows_);
  Chunk chunk{};
  chunk.block = block_rows(most);
  chunk.stride = std::size_t(most) * P;
  const int most_blocks = static_cast<int>(ceiling(most, chunk.block));
  for (int l = 0; l < products; ++l) {
    chunk.gradient_net.push_back(most * padded(sizes_[l + 1]));
    chunk.gradient.push_back(
        std::make_unique<Buffer<T>>(nets_ * chunk.gradient_net[l], Contents::kAny));
  }
  chunk.input_net = most * padded(sizes_[0]);
  chunk.input = std::make_unique<Buffer<T>>(nets_ * chunk.input_net, Contents::kAny);
  for (int i = 0; i < nets_ * products && d_weight != nullptr; ++i) {
    const int l = i % products;
    chunk.columns.push_back(
        l == 0 ? nullptr
               : std::make_unique<ListBuffer<T>>(padded(sizes_[l]), most_blocks, Contents::kAny));
  }
  chunk.listed.resize(std::size_t(nets_) * products * most_blocks);
  for (chunk.begin = 0; chunk.begin < rows_; chunk.begin += most) {
    chunk.rows = std::min(most, rows_ - chunk.begin);
    chunk.blocks = static_cast<int>(ceiling(chunk.rows, chunk.block));
    chunk_backward(d_out, x, shared, packed, hidden, d_x, chunk);
    if (d_weight != nullptr) chunk_gradients(d_out, hidden, chunk, d_weight, d_bias);
  }
}

// From the gradients of the outputs to those of what every layer puts out, and of x.
template <class T>
void StackedMlp<T>::chunk_backward(const T* d_out, const T* x, bool shared, const Packed& packed,
                                   const T* const* hidden, T* d_x, Chunk& chunk) const {
  const int P = kernels_.panel, inputs = sizes_[0], outputs = sizes_.back();
  const int last = hidden_layers(), products = panel_layers();
  const int widest = *std::max_element(sizes_.begin() + 1, sizes_.begin() + 1 + products);
  const std::size_t block_stride = std::size_t(chunk.block) * P;
  share_out_(std::int64_t(nets_) * chunk.blocks, [&](Range range) {
    ListBuffer<T> lists(chunk.block, kernels_.pieces_of(widest), Contents::kAny);
    Buffer<T> room(kernels_.list_room(chunk.block), Contents::kAny);
    // The kernel passes a gradient where the layer's input is positive: of x, everywhere.
    const std::size_t input_block = d_x == nullptr ? 0 : block_stride * panels(inputs);
    Buffer<T> everywhere(input_block, Contents::kAny), d_input(input_block, Contents::kAny);
    std::fill(everywhere.data(), everywhere.data() + input_block, T(1));
    for (std::int64_t i = range.begin; i < range.end; ++i) {
      const int e = static_cast<int>(i / chunk.blocks), block = static_cast<int>(i % chunk.blocks);
      const std::int64_t first = std::int64_t(block) * chunk.block, row = chunk.begin + first;
      const int m = static_cast<int>(std::min<std::int64_t>(chunk.block, chunk.rows - first));
      const auto gradient = [&](int l) { return chunk.gradient_rows(l, e, first, P); };
      const auto pass = [&](int l, Rows<const T> in, Rows<T> d_in) {
        const Rows<T> d = gradient(l);
        const int n = sizes_[l + 1];
        layer_backward(packed.weights_of(e, l), {d.data, d.panel_stride}, m, n, in, sizes_[l],
                       lists.in_pieces(kernels_.pieces_of(n)), room.data(), d_in);
      };
      const T* d_outputs = d_out + (e * rows_ + row) * outputs;
      if (is_head(last)) {
        kernels_.head_backward(d_outputs, m, outputs, packed.weights_of(e, last),
                               hidden_rows(hidden, last - 1, e, row), sizes_[last], T(1),
                               gradient(last - 1));
      } else {
        to_panels<T>(d_outputs, m, outputs, P, gradient(last));
      }
      for (int l = products - 1; l > 0; --l) {
        const Rows<const T> in = hidden_rows(hidden, l - 1, e, row);
        pass(l, in, gradient(l - 1));
        if (chunk.columns.empty()) continue;
        // Listed here, while they are in the cache.
        char& listed = chunk.listed[(e * products + l) * chunk.blocks + block];
        listed = kernels_.sparse(in, m, sizes_[l]);
        if (listed) {
          kernels_.list_columns(in, m, sizes_[l],
                                chunk.columns[e * products + l]->in_pieces(chunk.blocks), block);
        }
      }
      if (d_x != nullptr) {
        pass(0, {everywhere.data(), block_stride}, {d_input.data(), block_stride});
        from_panels<T>({d_input.data(), block_stride}, m, inputs, P, nullptr,
                       d_x + (e * rows_ + row) * inputs);
      }
      if (!chunk.columns.empty()) {
        to_panels<T>(x + ((shared ? 0 : e * rows_) + row) * inputs, m, inputs, P,
                     chunk.input_rows(e, first, P));
      }
    }
  });
}

// What the chunk's rows add to the gradients of the weights and biases.
template <class T>
void StackedMlp<T>::chunk_gradients(const T* d_out, const T* const* hidden, const Chunk& chunk,
                                    T* const* d_weight, T* const* d_bias) const {
  const int P = kernels_.panel, last = hidden_layers(), products = panel_layers();
  const int outputs = sizes_.back();
  const int m = static_cast<int>(chunk.rows);
  const bool add = chunk.begin > 0;
  std::vector<int> bounds;
  for (int block = 0; block < chunk.blocks; ++block) bounds.push_back(block * chunk.block);
  bounds.push_back(m);

  struct Part {
    int net, layer, panel, panels;
    bool listed;
  };
  std::vector<Part> parts;
  std::vector<std::int64_t> costs;
  std::size_t largest = is_head(last) ? outputs * (padded(sizes_[last]) + 1) : 0;
  for (int e = 0; e < nets_; ++e) {
    for (int l = 0; l < products; ++l) {
      const char* block = chunk.listed.data() + std::size_t(e * products + l) * chunk.blocks;
      const bool listed =
          l > 0 && std::all_of(block, block + chunk.blocks, [](char b) { return b != 0; });
      const int all = panels(sizes_[l + 1]), together = listed ? kernels_.panels_together : 1;
      for (int p = 0; p < all; p += together) {
        parts.push_back({e, l, p, std::min(together, all - p), listed});
        costs.push_back(std::int64_t(sizes_[l]) * P * parts.back().panels);
        largest = std::max(largest, std::size_t(costs.back()));
      }
    }
    if (!is_head(last)) continue;
    parts.push_back({e, last, 0, 0, false});
    costs.push_back(std::int64_t(sizes_[last]) * outputs);
  }
  const auto give = [add](const T* from, int count, T* to) {
    if (!add) return copy(from, count, to);
    for (int i = 0; i < count; ++i) to[i] += from[i];
  };
  share_by_cost(costs, [&](Range range) {
    Buffer<T> gradient(largest, Contents::kAny), bias(std::max(P, outputs), Contents::kAny);
    Buffer<T> room(kernels_.widened, Contents::kAny);
    for (std::int64_t i = range.begin; i < range.end; ++i) {
      const auto [e, l, p, count, listed] = parts[i];
      const int k = sizes_[l], n = sizes_[l + 1];
      T* d_w = d_weight[l] + std::int64_t(e) * k * n;
      T* d_b = d_bias[l] + std::int64_t(e) * n;
      if (is_head(l)) {
        const std::size_t stride = padded(k);
        kernels_.head_gradient(hidden_rows(hidden, l - 1, e, chunk.begin), m, k,
                               d_out + (e * rows_ + chunk.begin) * n, n, gradient.data(),
                               bias.data());
        for (int c = 0; c < k; ++c) {
          for (int j = 0; j < n; ++j) {
            T& to = d_w[std::int64_t(c) * n + j];
            to = add ? to + gradient.data()[j * stride + c] : gradient.data()[j * stride + c];
          }
        }
        give(bias.data(), n, d_b);
        continue;
      }
      const std::size_t panel_size = std::size_t(k) * P;
      const Rows<T> all = chunk.gradient_rows(l, e, 0, P);
      const Rows<const T> d{all.data + p * all.panel_stride, all.panel_stride};
      if (listed) {
        kernels_.weight_gradient_lists(chunk.columns[e * products + l]->in_pieces(chunk.blocks),
                                       bounds.data(), k, d, count, room.data(), gradient.data());
      } else {
        const Rows<T> x = chunk.input_rows(e, 0, P);
        const Rows<const T> in = l == 0 ? Rows<const T>{x.data, x.panel_stride}
                                        : hidden_rows(hidden, l - 1, e, chunk.begin);
        kernels_.dense.weight_gradient(in, m, k, d, count, nullptr, gradient.data());
      }
      for (int q = 0; q < count; ++q) {
        const int c = (p + q) * P, width = std::min(P, n - c);
        kernels_.bias_gradient(d.data + q * d.panel_stride, m, bias.data());
        give(bias.data(), width, d_b + c);
        for (int r = 0; r < k; ++r) {
          give(gradient.data() + q * panel_size + std::size_t(r) * P, width,
               d_w + std::int64_t(r) * n + c);
        }
      }
    }
  });
}

template class StackedMlp<float>;
template class StackedMlp<double>;

}  // namespace iql::cpu
