// The kernels of kernels.h, written once over GCC/Clang vector types. The including file defines
// IQL_ISA (a namespace), IQL_VECTOR_BYTES, IQL_TILE_ROWS and IQL_LIST_DENSITY, and is compiled for
// that instruction set.
//
// Here they are put together to a set. Their parts, by what they do:
//   kernels_vectors.h        vectors, and rows of panels as vectors
//   kernels_products.h       what products of every kind share
//   kernels_dense.h          products that multiply all elements, zeros or not
//   kernels_transpose.h      transposes of parts of panels
//   kernels_widened.h        products of bf16 as those of floats
//   kernels_listing.h        lists of nonzero elements
//   kernels_list_products.h  products with lists
//   kernels_heads.h          the outputs after the last hidden layer
//   kernels_dropout.h        dropout
//   kernels_adam.h           Adam, Polyak, and weights as operands
// In sets with instructions for bf16, which include them:
//   kernels_pairs.h          its dense products in vector registers
//   kernels_amx.h            its dense products on matrix registers
//
// Nothing in them instantiates a function template that other files share (no <vector>, no
// <algorithm>), and all that they define is in an unnamed namespace: of several copies of a
// function the linker could keep the one that was compiled for the wrong machine.
#pragma once

#include "cpu/kernels_adam.h"
#include "cpu/kernels_dense.h"
#include "cpu/kernels_dropout.h"
#include "cpu/kernels_heads.h"
#include "cpu/kernels_list_products.h"
#include "cpu/kernels_listing.h"
#include "cpu/kernels_transpose.h"
#include "cpu/kernels_widened.h"

namespace iql::cpu::IQL_ISA {
namespace {

// Those of a set that brings none of its own.
template <class T, class Operand>
constexpr DenseProducts<T, Operand> dense_products() {
  if constexpr (std::is_same_v<T, Operand>) {
    return {[](int, int) { return std::size_t{0}; },
            [](Rows<const T> in, int m, int k, const T* weight, const T* bias, int n, T*,
               Rows<T> out) { forward<T, T>(in, m, k, weight, bias, n, out); },
            backward<T>,
            [](Rows<const T> in, int m, int k, Rows<const T> d_out, int count, T*, T* d_weight) {
              for (int p = 0; p < count; ++p) {
                weight_gradient<T, T>(in, m, k, d_out.data + p * d_out.panel_stride,
                                      d_weight + std::size_t(p) * k * Vector<T>::kPanel);
              }
            }};
  } else {
    return {widened_room<T, Operand>, widened_forward<T, Operand>, widened_backward<T, Operand>,
            widened_weight_gradient<T, Operand>};
  }
}

// The set whose products with lists have so many lines in registers at a time and NP panels of
// each, of lines cut into such pieces.
template <class T, class Operand, int Lines, int NP, int Piece = 128>
constexpr Kernels<T, Operand> table(
    const char* name, long l1_bytes = 0,
    DenseProducts<T, Operand> dense = dense_products<T, Operand>()) {
  static_assert(Piece <= kMostOfPiece<Operand>);
  return {name,
          l1_bytes,
          Vector<T>::kPanel,
          NP,
          Piece,
          IQL_LIST_DENSITY,
          kWidened<T, Operand, NP, Piece>,
          dense,
          forward<T, Operand>,
          weight_gradient<T, Operand>,
          bias_gradient<T, Operand>,
          count_nonzero<T, Operand>,
          list_rows<T, Operand, Piece>,
          list_columns<T, Operand>,
          forward_lists<T, Operand, NP, Piece, Lines>,
          backward_lists<T, Operand, NP, Piece, Lines>,
          weight_gradient_lists<T, Operand, NP, Piece, Lines>,
          head_forward<T, Operand>,
          head_backward<T, Operand>,
          head_gradient<T, Operand>,
          drop<T, Operand>,
          adam<T, Operand>,
          operands<T, Operand>,
          transpose_panel<T, Operand>,
          multiply_and_add<T>};
}

}  // namespace
}  // namespace iql::cpu::IQL_ISA
