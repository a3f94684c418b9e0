// One network's parameters on the CPU: where they lie in its arena, and how they are read and
// written in torch's layout.
#pragma once

#include <cstddef>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/memory.h"

namespace iql::engine {

using cpu::Buffer;

inline std::size_t round_up(std::size_t n, std::size_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

// A hidden layer: inputs -> outputs, its weights in panels (see cpu/kernels.h). The first layer's
// are [inputs, outputs]. Those of the others are [outputs, inputs], as the backward pass reads them
// and as their gradient comes out of the product that has the fewest nonzero elements to list; the
// forward pass has a transposed copy.
struct HiddenLayer {
  int inputs, outputs;
  std::size_t weight, bias;  // offsets of the parameters
  std::size_t forward;       // offset in the copies for the forward pass; the first layer has none
};

// Offsets, in elements, of an MLP's parameters; every piece starts on a cache line.
struct NetworkLayout {
  NetworkLayout(int inputs, const std::vector<int>& hidden, int outputs, int log_stds, int panel,
                int alignment);

  int panels(int columns) const { return (columns + panel - 1) / panel; }

  int panel;
  std::vector<HiddenLayer> hidden;
  int head_inputs, head_inputs_padded, outputs, log_stds;
  std::size_t head_weight, head_bias, log_std;
  std::size_t size = 0;          // of the parameters
  std::size_t forward_size = 0;  // of the copies for the forward pass
};

// Parameters, and the same as products between hidden layers take them: `operands` rounded, at the
// same offsets, where these are of another type, and the very same where they are not; `forward`
// transposed besides.
template <class T, class Operand>
struct Parameters {
  T* values;
  Operand* operands;
  Operand* forward;
};

// Weights, Adam's moments and, for a critic, the target, side by side in one arena.
template <class T, class Operand = T>
struct Network {
  Network(const NetworkLayout& layout, bool has_target);

  // The parameters from offset `at` on, with the copies that products take if these are in any.
  cpu::AdamArrays<T, Operand> arrays(std::size_t at, bool in_products) const;

  const NetworkLayout* layout;
  Buffer<T> arena;
  Buffer<Operand> operand_arena;
  Parameters<T, Operand> trained;
  T* m;
  T* v;
  Parameters<T, Operand> target;  // nullptr where there is none
};

// The pieces of a network in the order and layout that torch gives them: layer by layer the weight
// [outputs, inputs] and the bias [outputs], then the log-std. `values` is one of the arrays of a
// Network; `natural` points at one piece.
template <class T>
void read_piece(const NetworkLayout& layout, const T* values, int piece, T* natural);
template <class T>
void write_piece(const NetworkLayout& layout, T* values, int piece, const T* natural);
int piece_count(const NetworkLayout& layout);
std::size_t piece_size(const NetworkLayout& layout, int piece);

}  // namespace iql::engine
