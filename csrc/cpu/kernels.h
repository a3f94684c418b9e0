// The loops that a training step on the CPU is made of, compiled once for each instruction set and
// chosen at run time.
//
// Matrices are stored in panels of P columns, P = two vector registers: element (r, c) of a matrix
// of R rows lies at ((c / P) * R + r) * P + c % P. A panel of weights, of activations or of
// gradients is then one contiguous stream for the matrix product, and stays in the L1 cache while
// it is used. Columns past the last are zero and stay zero.
//
// What a hidden layer puts out (activations, and the gradients of its outputs), and the weights
// between hidden layers, can be operands of another type than T: half as many bytes to store. They
// are rounded, products and sums are T. A set either has instructions that multiply two operands at
// a time, or widens them to T as it goes (kernels_widened.h). In a panel of bf16, groups of four
// columns of its left and of its right vector alternate: rows that are interleaved pair by pair
// then come out as the left and the right vector of the result, and so do rows that are widened.
//
// Every result element is computed by the same operations in the same order however rows and panels
// are shared out, so results do not depend on the number of threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "iql/adam.h"
#include "iql/bfloat16.h"
#include "iql/philox.h"

namespace iql::cpu {

// Some rows of a panel matrix: `data` points at the first of them in panel 0.
template <class T>
struct Rows {
  T* data;
  std::size_t panel_stride;  // elements from one panel to the next: R * P
};

// The nonzero elements of some lines (rows, or columns) of a matrix, in the order of the line.
// About half of what comes out of a ReLU is zero, and a product need not multiply with it: skipping
// leaves every bit of the result as it is.
//
// A line is cut into pieces, each a list of its own: that of line l's piece p begins at
// (l * pieces + p) * kListCapacity<Operand>. Lists are filled up with zeros to a multiple of 4. A
// set that widens operands keeps their values widened, in the same memory.
template <class Operand>
struct Lists {
  Operand* value;
  std::uint8_t* place;  // of each within its piece
  int* count;           // [lines][pieces]
  int pieces;
};
// Elements of a line that a piece covers at most; a set of kernels may cut lines shorter.
template <class Operand>
constexpr int kMostOfPiece = sizeof(Operand) == 2 ? 256 : 128;
static_assert(kMostOfPiece<BFloat16> <= 256, "a place is a byte");
template <class Operand>
constexpr int kListCapacity = kMostOfPiece<Operand> + 64 / int(sizeof(Operand));

// Where column c of a panel, of its P, lies in a row of it.
template <class T, class Operand>
constexpr int place_in_panel(int c, int P) {
  if (sizeof(Operand) == sizeof(T)) return c;
  const int right = c >= P / 2, within = c - right * (P / 2);
  return within / 4 * 8 + right * 4 + within % 4;
}

// What Adam goes through; nullptr: there is none.
template <class T, class Operand>
struct AdamArrays {
  T *weight, *m, *v, *target;
  Operand *weight_operands, *target_operands;  // copies for products
};

// The products between hidden layers that multiply all elements, zeros or not.
template <class T, class Operand>
struct DenseProducts {
  // Operands that each has to itself while it runs, its `room`, with no more than so many rows and
  // columns in any of its matrices.
  std::size_t (*room)(int rows, int columns);

  // out = relu(in * weight + bias), for m rows. in [m, k], weight [k, n], bias [n padded].
  void (*forward)(Rows<const Operand> in, int m, int k, const Operand* weight, const T* bias, int n,
                  Operand* room, Rows<Operand> out);

  // d_in = (d_out * weight^T) where `in` > 0, times scale. d_out [m, n], transposed weight [n, k],
  // in [m, k] (the ReLU's output, which tells where its input was positive), d_in [m, k].
  void (*backward)(Rows<const Operand> d_out, int m, int n, const Operand* weight_t,
                   Rows<const Operand> in, int k, T scale, Operand* room, Rows<Operand> d_in);

  // The gradient of some panels of weights: d_weight [panels][k, P] = in^T * d_out, over m rows.
  // d_out points at the first panel.
  void (*weight_gradient)(Rows<const Operand> in, int m, int k, Rows<const Operand> d_out,
                          int panels, Operand* room, T* d_weight);
};

template <class T, class Operand = T>
struct Kernels {
  // "portable", "avx2", "avx512"; with bf16 besides "avx512bf16", "avx512bf16-wide", "amx".
  const char* name;
  long l1_bytes;  // it is meant for cores whose L1 data cache is no smaller
  int panel;      // P
  // Panels that a product towards the weights does at a time: it is fastest with a multiple of
  // these.
  int panels_together;
  int piece;  // elements that a product with lists cuts lines into
  // Above this share of nonzero elements a product is faster without lists, where that has not been
  // measured (product_times.h). 0: lists are of no use.
  double list_density;
  // Elements that a product with lists has to itself for operands that it widens, aligned as a
  // panel is.
  std::size_t widened;
  DenseProducts<T, Operand> dense;

  // out = relu(in * weight + bias), for m rows of the first layer, whose input and weights are
  // never rounded. in [m, k], weight [k, n], bias [n padded].
  void (*forward)(Rows<const T> in, int m, int k, const T* weight, const T* bias, int n,
                  Rows<Operand> out);

  // The gradient of one panel of its weights: d_weight [k, P] = in^T * d_out, over m rows. d_out
  // points at the panel, contiguous rows of P.
  void (*weight_gradient)(Rows<const T> in, int m, int k, const Operand* d_out, T* d_weight);

  // The gradient of one panel of biases: d_bias [P] = the column sums of d_out, over m rows.
  void (*bias_gradient)(const Operand* d_out, int m, T* d_bias);

  // How many elements of in [m, k] are not zero: quicker than to list them in vain.
  std::size_t (*count_nonzero)(Rows<const Operand> in, int m, int k);

  // The lists of m rows of in [m, k].
  void (*list_rows)(Rows<const Operand> in, int m, int k, Lists<Operand> lists);

  // Piece `piece` of the lists of the columns of in [m, k]: these m rows, a piece at most.
  void (*list_columns)(Rows<const Operand> in, int m, int k, Lists<Operand> lists, int piece);

  // The dense `forward` and `backward` whose first operand is given by the lists of its rows.
  // `room`: list_room(m) elements that it has to itself.
  void (*forward_lists)(Lists<Operand> in, int m, int k, const Operand* weight, const T* bias,
                        int n, T* room, Rows<Operand> out);
  void (*backward_lists)(Lists<Operand> d_out, int m, int n, const Operand* weight_t,
                         Rows<const Operand> in, int k, T scale, T* room, Rows<Operand> d_in);

  // And `weight_gradient`, by the lists of the columns of `in`; piece p of them covers rows
  // bounds[p] ... bounds[p + 1]. `room`: `widened` elements.
  void (*weight_gradient_lists)(Lists<Operand> in, const int* bounds, int k,
                                Rows<const Operand> d_out, int panels, T* room, T* d_weight);

  // out[r * n + j] = dot(in[r], weight[j]) + bias[j]. in [m, k], weight [n][k padded].
  void (*head_forward)(Rows<const Operand> in, int m, int k, const T* weight, const T* bias, int n,
                       T* out);

  // d_in = (d_out * weight) where `in` > 0, times scale. d_out [m][n].
  void (*head_backward)(const T* d_out, int m, int n, const T* weight, Rows<const Operand> in,
                        int k, T scale, Rows<Operand> d_in);

  // d_weight [n][k padded] = d_out^T * in, d_bias [n] = the column sums of d_out, over m rows.
  void (*head_gradient)(Rows<const Operand> in, int m, int k, const T* d_out, int n, T* d_weight,
                        T* d_bias);

  // Dropout of one row of n columns, of which the first is element `first`.
  void (*drop)(Rows<Operand> x, int n, const Dropout& dropout, std::int64_t first);

  // Adam on n parameters; then target += alpha * (weight - target) where there is a target. The
  // parameters are whole rows of panels where they are also to be written as operands.
  void (*adam)(AdamArrays<T, Operand> arrays, const T* gradient, std::size_t n,
               const AdamStep<T>& step, T alpha);

  // Some rows of a panel as operands.
  void (*operands)(const T* panel, int rows, Operand* out);

  // Writes panel p (columns p*P ...) of a weight matrix [k, n] into its transpose [n, k].
  void (*transpose_panel)(const Operand* weight_panel, int k, int p, int n, Operand* weight_t);

  // Multiplies and adds in registers alone, as fast as this set can; returns how many
  // floating-point operations that was. out [P]: what came of it.
  double (*multiply_and_add)(long rounds, T* out);

  // The share of nonzero elements of in [m, k]; more than any where lists are of no use.
  double density(Rows<const Operand> in, int m, int k) const {
    return list_density > 0 ? double(count_nonzero(in, m, k)) / (double(m) * k) : 2;
  }
  // Whether products with it are faster by its lists.
  bool sparse(Rows<const Operand> in, int m, int k) const {
    return density(in, m, k) <= list_density;
  }

  // What a product with the lists of m rows needs.
  std::size_t list_room(int m) const { return widened + std::size_t(panels_together) * m * panel; }

  // Pieces of a line of so many elements.
  int pieces_of(int length) const { return (length + piece - 1) / piece; }
};

// Bytes of a core's L1 data cache; 0 where the system does not tell.
long l1_data_cache();

// The set of that name; of none, the one that the environment variable IQL_FAST_CPU_KERNELS names,
// or else the first in the list that this machine can run, with an L1 data cache of so many bytes.
// Throws std::runtime_error where the named one is unknown or cannot run here.
template <class T, class Operand = T>
const Kernels<T, Operand>& kernels(const std::string& name = "", long l1_bytes = l1_data_cache());

// Sets compiled in, best first; nullptr ends the list.
template <class T, class Operand = T>
const Kernels<T, Operand>* const* all_kernels();

// Whether this machine has the instructions of the set, and what they need of the system.
bool can_run(const char* name);

}  // namespace iql::cpu
