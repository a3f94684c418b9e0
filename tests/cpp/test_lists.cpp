// Products by lists of nonzero elements give the bits of the products without them, for every
// kernel set that runs here, at sizes that fill nothing evenly; with operands of bf16, the sums of
// the rounded numbers' products.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <vector>

#include "check.h"
#include "cpu/kernels.h"
#include "cpu/memory.h"
#include "iql/philox.h"

namespace {

using iql::BFloat16;
using iql::cpu::Buffer;
using iql::cpu::Kernels;
using iql::cpu::ListBuffer;
using iql::cpu::Lists;
using iql::cpu::pieces_of;
using iql::cpu::Rows;

std::uint32_t draw(std::uint32_t index) { return iql::draw(7, 0, 0, index).word[0]; }

template <class T>
struct Panels {
  Panels(int rows, int columns, int panel)
      : rows(rows),
        columns(columns),
        panel(panel),
        padded((columns + panel - 1) / panel * panel),
        data(std::size_t(rows) * padded) {}
  T& at(int r, int c) { return data[(std::size_t(c / panel) * rows + r) * panel + c % panel]; }
  // Numbers in [-1, 1), of which the share `density` is not zero.
  void fill(double density, std::uint32_t stream) {
    for (int r = 0; r < rows; ++r) {
      for (int c = 0; c < columns; ++c) {
        const std::uint32_t i = (stream * 4096u + r) * 4096u + c;
        const bool keep = draw(2 * i) < density * 4294967296.0;
        at(r, c) = keep ? T(draw(2 * i + 1) / 2147483648.0 - 1.0) : T(0);
      }
    }
  }
  Rows<T> from(int row) {
    return {data.data() + std::size_t(row) * panel, panel * std::size_t(rows)};
  }
  Rows<const T> read(int row) {
    return {data.data() + std::size_t(row) * panel, panel * std::size_t(rows)};
  }
  int rows, columns, panel, padded;
  Buffer<T> data;
};

// Equal bits, but that two NaN may differ.
template <class T>
bool same(const Buffer<T>& a, const Buffer<T>& b) {
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (std::memcmp(&a[i], &b[i], sizeof(T)) != 0 && !(a[i] != a[i] && b[i] != b[i])) return false;
  }
  return true;
}

// m rows, k inputs, n outputs of a hidden layer.
template <class T>
void check_layer(const Kernels<T>& kernels, int m, int k, int n, double density, bool poison) {
  const int P = kernels.panel;
  Panels<T> in(m, k, P), weight(k, n, P), weight_t(n, k, P), d_out(m, n, P), bias(1, n, P);
  in.fill(density, 1);
  for (int r = 0; r < m; ++r) {
    for (int c = 0; c < k; ++c) in.at(r, c) = in.at(r, c) < T(0) ? -in.at(r, c) : in.at(r, c);
  }
  if (poison) in.at(m / 2, k - 1) = std::numeric_limits<T>::quiet_NaN();
  weight.fill(1, 2);
  bias.fill(1, 3);
  d_out.fill(density, 4);
  for (int i = 0; i < k; ++i) {
    for (int j = 0; j < n; ++j) weight_t.at(j, i) = weight.at(i, j);
  }
  std::size_t nonzero = 0;
  for (int r = 0; r < m; ++r) {
    for (int c = 0; c < k; ++c) nonzero += in.at(r, c) != T(0);
  }

  Panels<T> dense(m, n, P), listed(m, n, P);
  ListBuffer<T> rows(m, pieces_of(k));
  CHECK(kernels.list_rows(in.read(0), m, k, rows.lists()) == nonzero);
  kernels.forward(in.read(0), m, k, weight.data.data(), bias.data.data(), n, dense.from(0));
  kernels.forward_lists(rows.lists(), m, k, weight.data.data(), bias.data.data(), n,
                        listed.from(0));
  CHECK(same(dense.data, listed.data));
  if (poison) CHECK(listed.at(m / 2, 0) != listed.at(m / 2, 0));

  Panels<T> d_dense(m, k, P), d_listed(m, k, P);
  ListBuffer<T> d_rows(m, pieces_of(n));
  kernels.list_rows(d_out.read(0), m, n, d_rows.lists());
  kernels.backward(d_out.read(0), m, n, weight_t.data.data(), in.read(0), k, T(1.25),
                   d_dense.from(0));
  kernels.backward_lists(d_rows.lists(), m, n, weight_t.data.data(), in.read(0), k, T(1.25),
                         d_listed.from(0));
  CHECK(same(d_dense.data, d_listed.data));

  // The rows in two uneven pieces where there are enough, else in one.
  std::vector<int> bounds = {0, m > iql::cpu::kPiece ? m - iql::cpu::kPiece : m};
  if (bounds.back() < m) bounds.push_back(m);
  const int pieces = static_cast<int>(bounds.size()) - 1, panels = d_out.padded / P;
  ListBuffer<T> columns(in.padded, pieces);
  std::size_t total = 0;
  for (int piece = 0; piece < pieces; ++piece) {
    total += kernels.list_columns(in.read(bounds[piece]), bounds[piece + 1] - bounds[piece], k,
                                  columns.lists(), piece);
  }
  CHECK(total == nonzero);
  Buffer<T> g_dense(std::size_t(panels) * k * P), g_listed(g_dense.size());
  for (int p = 0; p < panels; ++p) {
    kernels.weight_gradient(in.read(0), m, k, d_out.read(0).data + p * d_out.read(0).panel_stride,
                            g_dense.data() + std::size_t(p) * k * P);
  }
  kernels.weight_gradient_lists(columns.lists(), bounds.data(), k, d_out.read(0), panels,
                                g_listed.data());
  CHECK(same(g_dense, g_listed));
}

// Every number of a matrix as a bf16 holds it.
void round(Panels<float>& matrix) {
  for (std::size_t i = 0; i < matrix.data.size(); ++i) {
    std::uint32_t bits;
    std::memcpy(&bits, &matrix.data[i], sizeof bits);
    bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u;
    std::memcpy(&matrix.data[i], &bits, sizeof bits);
  }
}

Buffer<BFloat16> operands(const Kernels<float, BFloat16>& kernels, const Panels<float>& matrix) {
  Buffer<BFloat16> rounded(matrix.data.size());
  kernels.operands(matrix.data.data(), static_cast<int>(matrix.data.size()) / kernels.panel,
                   rounded.data());
  return rounded;
}

bool near(const Buffer<float>& a, const Buffer<float>& b, float tolerance) {
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (!(std::fabs(a[i] - b[i]) <= tolerance)) return false;
  }
  return true;
}

// The same layer with operands of bf16: as fp32 products of the rounded numbers, but for the order
// of the sums. A NaN stays one.
void check_mixed(const Kernels<float, BFloat16>& kernels, int m, int k, int n, double density,
                 bool poison) {
  const int P = kernels.panel;
  const float tolerance = 2e-5f;  // sums of at most 290 numbers below 1
  Panels<float> in(m, k, P), weight(k, n, P), weight_t(n, k, P), d_out(m, n, P), bias(1, n, P);
  in.fill(density, 1);
  weight.fill(1, 2);
  bias.fill(1, 3);
  d_out.fill(density, 4);
  const Buffer<BFloat16> weights = operands(kernels, weight), d_outs = operands(kernels, d_out);
  ListBuffer<BFloat16> rows(m, pieces_of(k)), d_rows(m, pieces_of(n)), columns(in.padded, 2);
  if (poison) in.at(m / 2, k - 1) = std::numeric_limits<float>::quiet_NaN();
  const std::size_t nonzero = kernels.list_rows(in.read(0), m, k, rows.lists());
  kernels.list_rows(d_out.read(0), m, n, d_rows.lists());
  const int bounds[] = {0, m / 2, m};
  std::size_t total = 0;
  for (int piece = 0; piece < 2; ++piece) {
    total += kernels.list_columns(in.read(bounds[piece]), bounds[piece + 1] - bounds[piece], k,
                                  columns.lists(), piece);
  }
  CHECK(total == nonzero);
  Buffer<BFloat16> weights_t(weight_t.data.size());
  for (int p = 0; p * P < n; ++p) {
    kernels.transpose_panel(weight.data.data() + std::size_t(p) * k * P, k, p, n, weights_t.data());
  }

  round(weight);
  round(d_out);
  Panels<float> rounded(m, k, P);
  rounded.data = Buffer<float>(in.data.size());
  for (std::size_t i = 0; i < in.data.size(); ++i) rounded.data[i] = in.data[i];
  if (poison) rounded.at(m / 2, k - 1) = 0;
  round(rounded);
  for (int i = 0; i < k; ++i) {
    for (int j = 0; j < n; ++j) weight_t.at(j, i) = weight.at(i, j);
  }

  Panels<float> dense(m, n, P), listed(m, n, P);
  kernels.forward(rounded.read(0), m, k, weight.data.data(), bias.data.data(), n, dense.from(0));
  kernels.forward_lists(rows.lists(), m, k, weights.data(), bias.data.data(), n, listed.from(0));
  if (poison) {
    CHECK(listed.at(m / 2, 0) != listed.at(m / 2, 0));
    return;
  }
  CHECK(near(dense.data, listed.data, tolerance));

  Panels<float> d_dense(m, k, P), d_listed(m, k, P);
  kernels.backward(d_out.read(0), m, n, weight_t.data.data(), in.read(0), k, 1.25f,
                   d_dense.from(0));
  kernels.backward_lists(d_rows.lists(), m, n, weights_t.data(), in.read(0), k, 1.25f,
                         d_listed.from(0));
  CHECK(near(d_dense.data, d_listed.data, tolerance));

  const int panels = d_out.padded / P;
  Buffer<float> g_dense(std::size_t(panels) * k * P), g_listed(g_dense.size());
  for (int p = 0; p < panels; ++p) {
    kernels.weight_gradient(rounded.read(0), m, k,
                            d_out.read(0).data + p * d_out.read(0).panel_stride,
                            g_dense.data() + std::size_t(p) * k * P);
  }
  kernels.weight_gradient_lists(columns.lists(), bounds, k, {d_outs.data(), std::size_t(m) * P},
                                panels, g_listed.data());
  CHECK(near(g_dense, g_listed, tolerance));

  // However the rows are cut into pieces, and so however elements are paired.
  if (m <= iql::cpu::kPiece) {
    ListBuffer<BFloat16> whole(in.padded, 1);
    kernels.list_columns(in.read(0), m, k, whole.lists(), 0);
    Buffer<float> g_whole(g_dense.size());
    kernels.weight_gradient_lists(whole.lists(), bounds, k, {d_outs.data(), std::size_t(m) * P},
                                  panels, g_whole.data());
    CHECK(same(g_whole, g_listed));
  }
}

void check_all_mixed() {
  const auto* const* sets = iql::cpu::all_kernels<float, BFloat16>();
  for (; *sets != nullptr; ++sets) {
    if (!iql::cpu::can_run((*sets)->name)) {
      std::printf("this machine cannot run %s\n", (*sets)->name);
      continue;
    }
    for (const int m : {1, 37, 128, 200}) {
      for (const int k : {1, 31, 130, 256, 290}) {
        for (const int n : {1, 33, 150}) check_mixed(**sets, m, k, n, 0.5, false);
      }
    }
    for (const double density : {0.0, 0.05, 1.0}) check_mixed(**sets, 70, 140, 70, density, false);
    check_mixed(**sets, 70, 140, 70, 0.5, true);
  }
}

template <class T>
void check_all() {
  for (const Kernels<T>* const* set = iql::cpu::all_kernels<T>(); *set != nullptr; ++set) {
    if (!iql::cpu::can_run((*set)->name)) continue;
    for (const int m : {1, 5, 37, 128, 200}) {
      for (const int k : {1, 31, 64, 130, 256}) {
        for (const int n : {1, 33, 64, 150}) check_layer(**set, m, k, n, 0.5, false);
      }
    }
    for (const double density : {0.0, 0.05, 1.0}) check_layer(**set, 70, 140, 70, density, false);
    check_layer(**set, 70, 140, 70, 0.5, true);
  }
}

}  // namespace

int main() {
  check_all<float>();
  check_all<double>();
  check_all_mixed();
  return 0;
}
