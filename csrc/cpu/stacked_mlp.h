// E MLPs of one shape with ReLU between their layers, over arrays in torch's layout, by the kernels
// that the engine trains with. All arrays are contiguous and row-major. One layer is an MLP too.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "cpu/elementwise.h"
#include "cpu/kernels.h"

namespace iql::cpu {

// Calls body for ranges that make up [0, n), on whichever threads, and returns when all are done.
using ShareOut = std::function<void(std::int64_t n, const std::function<void(Range)>& body)>;

// Layer l's weights [E, sizes[l], sizes[l + 1]] and biases [E, sizes[l + 1]].
template <class T>
struct Layers {
  const T* const* weight;
  const T* const* bias;  // the backward pass reads none
};

template <class T>
class StackedMlp {
 public:
  // sizes: of the input, of each hidden layer, of the output. `threads`: that
  // share_out uses. Results do not depend on them.
  StackedMlp(int nets, std::vector<int> sizes, std::int64_t rows, int threads, ShareOut share_out);

  // Outputs up to which those of hidden units are dot products each, which are faster than panels
  // that are filled in part.
  static constexpr int kWidestHead = 32;

  // Elements that one of the hidden layers takes, for all nets: in panels, as the backward pass
  // reads them. No set of kernels needs more.
  static constexpr int kWidest = 32;
  static std::int64_t kept_columns(std::int64_t columns) {
    return (columns + kWidest - 1) / kWidest * kWidest;
  }

  // out [E, rows, outputs]. x [E, rows, inputs], or [rows, inputs] where `shared`. hidden[l]: the
  // activations of hidden layer l, rows * kept_columns(sizes[l + 1]) each net, on a cache line;
  // null keeps none.
  void forward(const T* x, bool shared, Layers<T> layers, T* const* hidden, T* out) const;

  // d_x [E, rows, inputs], also where x is shared; null leaves it out. d_weight, d_bias: as the
  // layers; null leaves them out.
  void backward(const T* d_out, const T* x, bool shared, Layers<T> layers, const T* const* hidden,
                T* d_x, T* const* d_weight, T* const* d_bias) const;

 private:
  struct Packed;
  struct Chunk;

  int all_layers() const { return static_cast<int>(sizes_.size()) - 1; }
  int hidden_layers() const { return all_layers() - 1; }
  // Whether it is the last layer and goes by dot products.
  bool is_head(int layer) const {
    return layer > 0 && layer == hidden_layers() && sizes_.back() <= kWidestHead;
  }
  // Layers that are products with panels of weights: all, or all but the head.
  int panel_layers() const { return all_layers() - is_head(hidden_layers()); }
  std::size_t padded(int columns) const;
  int panels(int columns) const { return static_cast<int>(padded(columns)) / kernels_.panel; }
  int block_rows(std::int64_t rows) const;

  void share_by_cost(const std::vector<std::int64_t>& costs,
                     const std::function<void(Range)>& body) const;
  Packed pack(Layers<T> layers, bool forward, bool input_gradient) const;
  Rows<const T> hidden_rows(const T* const* hidden, int layer, int net, std::int64_t row) const;
  void layer_forward(const T* weight, const T* bias, Rows<const T> in, int m, int k, int n,
                     bool after_relu, Lists<T> lists, T* room, Rows<T> out) const;
  void layer_backward(const T* weight_t, Rows<const T> d_out, int m, int n, Rows<const T> in, int k,
                      Lists<T> lists, T* room, Rows<T> d_in) const;
  void chunk_backward(const T* d_out, const T* x, bool shared, const Packed& packed,
                      const T* const* hidden, T* d_x, Chunk& chunk) const;
  void chunk_gradients(const T* d_out, const T* const* hidden, const Chunk& chunk,
                       T* const* d_weight, T* const* d_bias) const;

  const int nets_;
  const std::vector<int> sizes_;
  const std::int64_t rows_;
  const int threads_;
  const ShareOut share_out_;
  const Kernels<T>& kernels_;
};

}  // namespace iql::cpu
