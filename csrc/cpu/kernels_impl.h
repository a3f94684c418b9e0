// The kernels of kernels.h, written once over GCC/Clang vector types. The including file defines
// IQL_ISA (a namespace), IQL_VECTOR_BYTES and IQL_TILE_ROWS, and is compiled for that instruction
// set.
//
// Nothing here instantiates a function template that other files share (no <vector>, no
// <algorithm>): the linker could then keep the copy that was compiled for the wrong machine.
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "cpu/kernels.h"
#include "iql/polyak.h"

namespace iql::cpu::IQL_ISA {
namespace {

template <class T>
struct Vector {
  typedef T type __attribute__((vector_size(IQL_VECTOR_BYTES), may_alias));
  static constexpr int kWidth = IQL_VECTOR_BYTES / sizeof(T);
  static constexpr int kPanel = 2 * kWidth;
};

template <class T>
using Vec = typename Vector<T>::type;

template <class T>
inline Vec<T> load(const T* p) {
  return *reinterpret_cast<const Vec<T>*>(p);
}
template <class T>
inline void store(T* p, Vec<T> v) {
  *reinterpret_cast<Vec<T>*>(p) = v;
}
template <class T>
inline Vec<T> broadcast(T x) {
  return x - Vec<T>{};  // x in every lane
}

template <class T>
inline int panels(int columns) {
  return (columns + Vector<T>::kPanel - 1) / Vector<T>::kPanel;
}

template <class T>
inline T sum_lanes(Vec<T> v) {
  T sum = 0;
  for (int i = 0; i < Vector<T>::kWidth; ++i) sum += v[i];
  return sum;
}

// MR rows of a product, one panel wide: the accumulators live in registers.
template <class T, int MR>
struct Tile {
  Vec<T> left[MR], right[MR];

  inline void clear() {
    for (int r = 0; r < MR; ++r) left[r] = right[r] = Vec<T>{};
  }
  inline void add(int r, Vec<T> x, Vec<T> b_left, Vec<T> b_right) {
    left[r] += x * b_left;
    right[r] += x * b_right;
  }
};

// tile = a[0..MR, 0..k] * b[0..k, panel]; b is one panel, contiguous.
template <class T, int MR>
inline void multiply_rows(Rows<const T> a, int k, const T* b, Tile<T, MR>& tile) {
  constexpr int P = Vector<T>::kPanel, W = Vector<T>::kWidth;
  tile.clear();
  for (int k0 = 0; k0 < k; k0 += P) {
    const T* rows = a.data + (k0 / P) * a.panel_stride;
    const int width = k - k0 < P ? k - k0 : P;
    for (int c = 0; c < width; ++c) {
      const Vec<T> b_left = load(b), b_right = load(b + W);
      b += P;
#pragma GCC unroll 16
      for (int r = 0; r < MR; ++r) tile.add(r, broadcast(rows[r * P + c]), b_left, b_right);
    }
  }
}

// Calls body(std::integral_constant-like tag, first row) for tiles of kTileRows rows, and one
// smaller tile for what is left.
template <int N>
struct RowCount {
  static constexpr int value = N;
};

template <int N, class Body>
inline void smaller_tile(int rows, int first, const Body& body) {
  if constexpr (N > 0) {
    if (rows == N) {
      body(RowCount<N>{}, first);
    } else {
      smaller_tile<N - 1>(rows, first, body);
    }
  }
}

template <class Body>
inline void for_tiles(int rows, const Body& body) {
  int first = 0;
  for (; first + IQL_TILE_ROWS <= rows; first += IQL_TILE_ROWS) {
    body(RowCount<IQL_TILE_ROWS>{}, first);
  }
  smaller_tile<IQL_TILE_ROWS - 1>(rows - first, first, body);
}

template <class T>
void forward(Rows<const T> in, int m, int k, const T* weight, const T* bias, int n, Rows<T> out) {
  constexpr int P = Vector<T>::kPanel, W = Vector<T>::kWidth;
  const Vec<T> zero{};
  for (int p = 0; p < panels<T>(n); ++p) {
    const T* panel = weight + std::size_t(p) * k * P;
    const Vec<T> bias_left = load(bias + p * P), bias_right = load(bias + p * P + W);
    T* out_panel = out.data + p * out.panel_stride;
    for_tiles(m, [&](auto count, int first) {
      constexpr int MR = decltype(count)::value;
      Tile<T, MR> tile;
      multiply_rows<T, MR>({in.data + first * P, in.panel_stride}, k, panel, tile);
#pragma GCC unroll 16
      for (int r = 0; r < MR; ++r) {
        const Vec<T> left = tile.left[r] + bias_left, right = tile.right[r] + bias_right;
        // Written so that a NaN stays a NaN: it must reach the loss, not vanish in the ReLU.
        store(out_panel + (first + r) * P, left < zero ? zero : left);
        store(out_panel + (first + r) * P + W, right < zero ? zero : right);
      }
    });
  }
}

template <class T>
void backward(Rows<const T> d_out, int m, int n, const T* weight_t, Rows<const T> in, int k,
              T scale, Rows<T> d_in) {
  constexpr int P = Vector<T>::kPanel, W = Vector<T>::kWidth;
  const Vec<T> zero{}, factor = broadcast(scale);
  for (int p = 0; p < panels<T>(k); ++p) {
    const T* panel = weight_t + std::size_t(p) * n * P;
    const T* in_panel = in.data + p * in.panel_stride;
    T* d_panel = d_in.data + p * d_in.panel_stride;
    for_tiles(m, [&](auto count, int first) {
      constexpr int MR = decltype(count)::value;
      Tile<T, MR> tile;
      multiply_rows<T, MR>({d_out.data + first * P, d_out.panel_stride}, n, panel, tile);
#pragma GCC unroll 16
      for (int r = 0; r < MR; ++r) {
        const int at = (first + r) * P;
        store(d_panel + at, load(in_panel + at) > zero ? tile.left[r] * factor : zero);
        store(d_panel + at + W, load(in_panel + at + W) > zero ? tile.right[r] * factor : zero);
      }
    });
  }
}

template <class T>
void weight_gradient(Rows<const T> in, int m, int k, const T* d_out, T* d_weight, T* d_bias) {
  constexpr int P = Vector<T>::kPanel, W = Vector<T>::kWidth;
  for_tiles(k, [&](auto count, int first) {
    constexpr int MR = decltype(count)::value;
    const T* column[MR];  // `in` transposed: row first + r of in^T is a column of `in`
    for (int r = 0; r < MR; ++r) {
      column[r] = in.data + ((first + r) / P) * in.panel_stride + (first + r) % P;
    }
    Tile<T, MR> tile;
    tile.clear();
    const T* d = d_out;
    for (int row = 0; row < m; ++row, d += P) {
      const Vec<T> d_left = load(d), d_right = load(d + W);
#pragma GCC unroll 16
      for (int r = 0; r < MR; ++r) {
        tile.add(r, broadcast(column[r][std::size_t(row) * P]), d_left, d_right);
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < MR; ++r) {
      store(d_weight + (first + r) * P, tile.left[r]);
      store(d_weight + (first + r) * P + W, tile.right[r]);
    }
  });
  Tile<T, 4> sum;  // four running sums, so that one addition need not wait for the last
  sum.clear();
  int row = 0;
  for (; row + 4 <= m; row += 4) {
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) {
      sum.left[r] += load(d_out + (row + r) * P);
      sum.right[r] += load(d_out + (row + r) * P + W);
    }
  }
  for (; row < m; ++row) {
    sum.left[0] += load(d_out + row * P);
    sum.right[0] += load(d_out + row * P + W);
  }
  store(d_bias, (sum.left[0] + sum.left[1]) + (sum.left[2] + sum.left[3]));
  store(d_bias + W, (sum.right[0] + sum.right[1]) + (sum.right[2] + sum.right[3]));
}

template <class T>
void head_forward(Rows<const T> in, int m, int k, const T* weight, const T* bias, int n, T* out) {
  constexpr int P = Vector<T>::kPanel, W = Vector<T>::kWidth;
  const int count = panels<T>(k);
  for (int r = 0; r < m; ++r) {
    for (int j = 0; j < n; ++j) {
      const T* w = weight + std::size_t(j) * count * P;
      Vec<T> left{}, right{};
      for (int p = 0; p < count; ++p) {
        const T* x = in.data + p * in.panel_stride + r * P;
        left += load(x) * load(w + p * P);
        right += load(x + W) * load(w + p * P + W);
      }
      out[r * n + j] = sum_lanes<T>(left + right) + bias[j];
    }
  }
}

template <class T>
void head_backward(const T* d_out, int m, int n, const T* weight, Rows<const T> in, int k, T scale,
                   Rows<T> d_in) {
  constexpr int P = Vector<T>::kPanel, W = Vector<T>::kWidth;
  const int count = panels<T>(k);
  const Vec<T> zero{}, factor = broadcast(scale);
  for (int p = 0; p < count; ++p) {
    for (int r = 0; r < m; ++r) {
      Vec<T> left{}, right{};
      for (int j = 0; j < n; ++j) {
        const Vec<T> g = broadcast(d_out[r * n + j]);
        const T* w = weight + (std::size_t(j) * count + p) * P;
        left += g * load(w);
        right += g * load(w + W);
      }
      const T* x = in.data + p * in.panel_stride + r * P;
      T* d = d_in.data + p * d_in.panel_stride + r * P;
      store(d, load(x) > zero ? left * factor : zero);
      store(d + W, load(x + W) > zero ? right * factor : zero);
    }
  }
}

template <class T>
void head_gradient(Rows<const T> in, int m, int k, const T* d_out, int n, T* d_weight, T* d_bias) {
  constexpr int P = Vector<T>::kPanel, W = Vector<T>::kWidth;
  const int count = panels<T>(k);
  for (int p = 0; p < count; ++p) {
    const T* x = in.data + p * in.panel_stride;
    for (int j = 0; j < n; ++j) {
      Vec<T> left{}, right{};
      for (int r = 0; r < m; ++r) {
        const Vec<T> g = broadcast(d_out[r * n + j]);
        left += g * load(x + r * P);
        right += g * load(x + r * P + W);
      }
      T* d = d_weight + (std::size_t(j) * count + p) * P;
      store(d, left);
      store(d + W, right);
    }
  }
  for (int j = 0; j < n; ++j) {
    T sum = 0;
    for (int r = 0; r < m; ++r) sum += d_out[r * n + j];
    d_bias[j] = sum;
  }
}

template <class T>
void adam(T* __restrict weight, T* __restrict m, T* __restrict v, T* __restrict target,
          const T* __restrict gradient, std::size_t n, const AdamStep<T>& coefficients, T alpha) {
  const AdamStep<T> step = coefficients;
  for (std::size_t i = 0; i < n; ++i) adam_update(weight[i], m[i], v[i], gradient[i], step);
  if (target != nullptr) {
    for (std::size_t i = 0; i < n; ++i) target[i] = polyak(target[i], weight[i], alpha);
  }
}

template <int Bytes>
struct Index;
template <>
struct Index<4> {
  typedef std::int32_t type __attribute__((vector_size(IQL_VECTOR_BYTES)));
};
template <>
struct Index<8> {
  typedef std::int64_t type __attribute__((vector_size(IQL_VECTOR_BYTES)));
};

// W x W elements: log2(W) rounds of interleaving row i with row i + W/2 (a perfect shuffle each).
template <class T>
inline void transpose_square(const T* from, std::size_t from_stride, T* to, std::size_t to_stride) {
  constexpr int W = Vector<T>::kWidth;
  typename Index<sizeof(T)>::type low{}, high{};
  for (int i = 0; i < W; ++i) {
    low[i] = i / 2 + (i % 2) * W;
    high[i] = low[i] + W / 2;
  }
  Vec<T> a[W], b[W];
#pragma GCC unroll 16
  for (int i = 0; i < W; ++i) a[i] = load(from + i * from_stride);
#pragma GCC unroll 4
  for (int round = 1; round < W; round *= 2) {
#pragma GCC unroll 16
    for (int i = 0; i < W / 2; ++i) {
      b[2 * i] = __builtin_shuffle(a[i], a[i + W / 2], low);
      b[2 * i + 1] = __builtin_shuffle(a[i], a[i + W / 2], high);
    }
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) a[i] = b[i];
  }
#pragma GCC unroll 16
  for (int i = 0; i < W; ++i) store(to + i * to_stride, a[i]);
}

template <class T>
void transpose_panel(const T* panel, int k, int p, int n, T* weight_t) {
  constexpr int P = Vector<T>::kPanel, W = Vector<T>::kWidth;
  const int columns = n - p * P < P ? n - p * P : P;
  for (int i0 = 0; i0 < k; i0 += W) {
    // Row j of the transpose, columns i0 ...: panel i0 / P of it.
    T* to = weight_t + (std::size_t(i0 / P) * n + p * P) * P + i0 % P;
    for (int j0 = 0; j0 < columns; j0 += W) {
      if (i0 + W <= k && j0 + W <= columns) {
        transpose_square<T>(panel + std::size_t(i0) * P + j0, P, to + j0 * P, P);
      } else {
        for (int j = j0; j < columns && j < j0 + W; ++j) {
          for (int i = i0; i < k && i < i0 + W; ++i) to[j * P + (i - i0)] = panel[i * P + j];
        }
      }
    }
  }
}

template <class T>
constexpr Kernels<T> table(const char* name) {
  return {name,
          Vector<T>::kPanel,
          forward<T>,
          backward<T>,
          weight_gradient<T>,
          head_forward<T>,
          head_backward<T>,
          head_gradient<T>,
          adam<T>,
          transpose_panel<T>};
}

}  // namespace
}  // namespace iql::cpu::IQL_ISA
