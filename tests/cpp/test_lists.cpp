// Products by lists of nonzero elements give the bits of the products without them, for every
// kernel set that runs here, at sizes that fill nothing evenly; with operands of bf16, the sums of
// the rounded numbers' products.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>
#include <utility>
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
    const double x(a[i]), y(b[i]);
    if (std::memcmp(&a[i], &b[i], sizeof(T)) != 0 && !(x != x && y != y)) return false;
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
  ListBuffer<T> rows(m, kernels.pieces_of(k));
  CHECK(kernels.count_nonzero(in.read(0), m, k) == nonzero);
  kernels.list_rows(in.read(0), m, k, rows.lists());
  kernels.forward(in.read(0), m, k, weight.data.data(), bias.data.data(), n, dense.from(0));
  Buffer<T> list_room(kernels.list_room(m));
  kernels.forward_lists(rows.lists(), m, k, weight.data.data(), bias.data.data(), n,
                        list_room.data(), listed.from(0));
  CHECK(same(dense.data, listed.data));
  if (poison) CHECK(listed.at(m / 2, 0) != listed.at(m / 2, 0));

  Panels<T> d_dense(m, k, P), d_listed(m, k, P);
  ListBuffer<T> d_rows(m, kernels.pieces_of(n));
  kernels.list_rows(d_out.read(0), m, n, d_rows.lists());
  kernels.dense.backward(d_out.read(0), m, n, weight_t.data.data(), in.read(0), k, T(1.25), nullptr,
                         d_dense.from(0));
  kernels.backward_lists(d_rows.lists(), m, n, weight_t.data.data(), in.read(0), k, T(1.25),
                         list_room.data(), d_listed.from(0));
  CHECK(same(d_dense.data, d_listed.data));

  // The rows in two uneven pieces where there are enough, else in one.
  std::vector<int> bounds = {0, m > kernels.piece ? m - kernels.piece : m};
  if (bounds.back() < m) bounds.push_back(m);
  const int pieces = static_cast<int>(bounds.size()) - 1, panels = d_out.padded / P;
  ListBuffer<T> columns(in.padded, pieces);
  for (int piece = 0; piece < pieces; ++piece) {
    kernels.list_columns(in.read(bounds[piece]), bounds[piece + 1] - bounds[piece], k,
                         columns.lists(), piece);
  }
  Buffer<T> g_dense(std::size_t(panels) * k * P), g_listed(g_dense.size());
  for (int p = 0; p < panels; ++p) {
    kernels.weight_gradient(in.read(0), m, k, d_out.read(0).data + p * d_out.read(0).panel_stride,
                            g_dense.data() + std::size_t(p) * k * P);
  }
  kernels.weight_gradient_lists(columns.lists(), bounds.data(), k, d_out.read(0), panels,
                                list_room.data(), g_listed.data());
  CHECK(same(g_dense, g_listed));
}

// Every number of a matrix as a bf16 holds it.
void round(Panels<float>& matrix) {
  for (std::size_t i = 0; i < matrix.data.size(); ++i) {
    matrix.data[i] = static_cast<float>(BFloat16(matrix.data[i]));
  }
}

// Panels of operands, of the same shape.
struct Operands {
  Operands(const Operands& other) : rows(other.rows), panel(other.panel), data(other.data.size()) {
    std::memcpy(data.data(), other.data.data(), data.size() * sizeof(BFloat16));
  }
  Operands(const Kernels<float, BFloat16>& kernels, const Panels<float>& of)
      : rows(of.rows), panel(of.panel), data(of.data.size()) {
    const int all = static_cast<int>(of.data.size()) / panel;
    kernels.operands(of.data.data(), all, data.data());
  }
  Rows<BFloat16> from(int row) {
    return {data.data() + std::size_t(row) * panel, panel * std::size_t(rows)};
  }
  Rows<const BFloat16> read(int row) const {
    return {data.data() + std::size_t(row) * panel, panel * std::size_t(rows)};
  }
  // What a product does not write would be seen.
  void spoil() {
    for (std::size_t i = 0; i < data.size(); ++i) data[i] = BFloat16(7.0f);
  }
  float at(int r, int c) const {
    const std::size_t place = iql::cpu::place_in_panel<float, BFloat16>(c % panel, panel);
    return static_cast<float>(data[(std::size_t(c / panel) * rows + r) * panel + place]);
  }
  int rows, panel;
  Buffer<BFloat16> data;
};

// A dense product's rows are the same alone as among others.
void check_rows_alone(const Kernels<float, BFloat16>& kernels, const Operands& ins,
                      const Operands& weights, const Panels<float>& bias, const Operands& outs,
                      int k, int n) {
  Operands alone = outs;
  alone.spoil();
  Buffer<BFloat16> room(kernels.dense.room(ins.rows, k > n ? k : n));
  for (int r = 0, count = 1; r < ins.rows; r += count, count += 7) {
    if (count > ins.rows - r) count = ins.rows - r;
    kernels.dense.forward(ins.read(r), count, k, weights.data.data(), bias.data.data(), n,
                          room.data(), alone.from(r));
  }
  CHECK(std::memcmp(alone.data.data(), outs.data.data(), outs.data.size() * 2) == 0);
}

// The same layer with operands of bf16: the products of the rounded numbers, in fp64, rounded once
// more where the result is an operand, by which it may differ by one unit of bf16. A NaN stays one.
void check_mixed(const Kernels<float, BFloat16>& kernels, int m, int k, int n, double density,
                 bool poison) {
  const int P = kernels.panel;
  const auto near = [](double sum, double result, double unit) {
    // Sums in fp32 of at most 290 numbers below 1, and what is left of a unit.
    return std::fabs(sum - result) <= 2e-5 + unit * std::fabs(sum);
  };
  const double unit = 1.0 / 256;
  Panels<float> in(m, k, P), weight(k, n, P), d_out(m, n, P), bias(1, n, P), empty_n(m, n, P);
  in.fill(density, 1);
  weight.fill(1, 2);
  bias.fill(1, 3);
  d_out.fill(density, 4);
  if (poison) in.at(m / 2, k - 1) = std::numeric_limits<float>::quiet_NaN();
  Operands ins(kernels, in), weights(kernels, weight), d_outs(kernels, d_out),
      outs(kernels, empty_n), d_ins(kernels, in);
  round(in);
  round(weight);
  round(d_out);
  for (int r = 0; r < m; ++r) {
    for (int c = 0; c < k && !poison; ++c) CHECK(ins.at(r, c) == in.at(r, c));
  }

  std::vector<int> bounds = {0, m / 2 < kernels.piece ? m / 2 : kernels.piece};
  while (bounds.back() < m) {
    bounds.push_back(m - bounds.back() < kernels.piece ? m : bounds.back() + kernels.piece);
  }
  const int pieces = static_cast<int>(bounds.size()) - 1;
  ListBuffer<BFloat16> rows(m, kernels.pieces_of(k)), d_rows(m, kernels.pieces_of(n)),
      columns(in.padded, pieces);
  std::size_t nonzero = 0;
  for (int r = 0; r < m; ++r) {
    for (int c = 0; c < k; ++c) nonzero += in.at(r, c) != 0.0f;
  }
  CHECK(kernels.count_nonzero(ins.read(0), m, k) == nonzero);
  kernels.list_rows(ins.read(0), m, k, rows.lists());
  kernels.list_rows(d_outs.read(0), m, n, d_rows.lists());
  for (int piece = 0; piece < pieces; ++piece) {
    kernels.list_columns(ins.read(bounds[piece]), bounds[piece + 1] - bounds[piece], k,
                         columns.lists(), piece);
  }

  // Each product by lists and, where the set has such, without; bit for bit the same in a set that
  // has both for use.
  const bool chooses = kernels.list_density > 0 && !poison;
  const auto& dense = kernels.dense;
  const int longer = m > k ? m : k;
  Buffer<BFloat16> room(dense.room == nullptr ? 0 : dense.room(m, longer > n ? longer : n));
  Buffer<float> list_room(kernels.list_room(m));
  const auto check_forward = [&] {
    if (poison) CHECK(outs.at(m / 2, 0) != outs.at(m / 2, 0));
    for (int r = 0; r < m; ++r) {
      if (poison && r == m / 2) continue;
      for (int c = 0; c < n; ++c) {
        double sum = bias.at(0, c);
        for (int i = 0; i < k; ++i) sum += double(in.at(r, i)) * weight.at(i, c);
        CHECK(near(sum > 0 ? sum : 0, outs.at(r, c), unit));
      }
      for (int c = n; c < d_out.padded; ++c) CHECK(outs.at(r, c) == 0);
    }
  };
  kernels.forward_lists(rows.lists(), m, k, weights.data.data(), bias.data.data(), n,
                        list_room.data(), outs.from(0));
  check_forward();
  if (dense.forward != nullptr) {
    const Operands by_lists = outs;
    outs.spoil();
    dense.forward(ins.read(0), m, k, weights.data.data(), bias.data.data(), n, room.data(),
                  outs.from(0));
    check_forward();
    CHECK(!chooses || same(outs.data, by_lists.data));
    check_rows_alone(kernels, ins, weights, bias, outs, k, n);
  }
  if (poison) return;

  Buffer<BFloat16> weights_t(std::size_t(n) * in.padded);
  for (int p = 0; p * P < n; ++p) {
    kernels.transpose_panel(weights.data.data() + std::size_t(p) * k * P, k, p, n,
                            weights_t.data());
  }
  const auto check_backward = [&] {
    for (int r = 0; r < m; ++r) {
      for (int i = 0; i < k; ++i) {
        double sum = 0;
        for (int c = 0; c < n; ++c) sum += double(d_out.at(r, c)) * weight.at(i, c);
        CHECK(near(in.at(r, i) > 0 ? 1.25 * sum : 0, d_ins.at(r, i), unit));
      }
      for (int i = k; i < in.padded; ++i) CHECK(d_ins.at(r, i) == 0);
    }
  };
  kernels.backward_lists(d_rows.lists(), m, n, weights_t.data(), ins.read(0), k, 1.25f,
                         list_room.data(), d_ins.from(0));
  check_backward();
  if (dense.backward != nullptr) {
    const Operands by_lists = d_ins;
    d_ins.spoil();
    dense.backward(d_outs.read(0), m, n, weights_t.data(), ins.read(0), k, 1.25f, room.data(),
                   d_ins.from(0));
    check_backward();
    CHECK(!chooses || same(d_ins.data, by_lists.data));
  }

  const int panels = d_out.padded / P;
  Buffer<float> gradient(std::size_t(panels) * k * P);
  kernels.weight_gradient_lists(columns.lists(), bounds.data(), k, d_outs.read(0), panels,
                                list_room.data(), gradient.data());
  const auto check_gradient = [&](int p) {
    for (int i = 0; i < k; ++i) {
      for (int c = 0; c < P; ++c) {
        double sum = 0;
        for (int r = 0; r < m; ++r) sum += double(in.at(r, i)) * d_out.at(r, p * P + c);
        CHECK(near(sum, gradient[(std::size_t(p) * k + i) * P + c], 0));
      }
    }
  };
  for (int p = 0; p < panels; ++p) check_gradient(p);
  if (dense.weight_gradient != nullptr) {
    Buffer<float> by_lists(std::move(gradient));
    gradient = Buffer<float>(by_lists.size());
    dense.weight_gradient(ins.read(0), m, k, d_outs.read(0), panels, room.data(), gradient.data());
    for (int p = 0; p < panels; ++p) check_gradient(p);
    CHECK(!chooses || same(gradient, by_lists));
    gradient = std::move(by_lists);
  }

  // However the rows are cut into pieces, and so however elements are paired.
  if (m <= kernels.piece) {
    ListBuffer<BFloat16> whole(in.padded, 1);
    kernels.list_columns(ins.read(0), m, k, whole.lists(), 0);
    Buffer<float> in_one(gradient.size());
    const int all[] = {0, m};
    kernels.weight_gradient_lists(whole.lists(), all, k, d_outs.read(0), panels, list_room.data(),
                                  in_one.data());
    CHECK(same(in_one, gradient));
  }

  // The first layer's, whose input is not rounded, and the biases'.
  for (int p = 0; p < panels; ++p) {
    const BFloat16* panel = d_outs.read(0).data + p * d_outs.read(0).panel_stride;
    kernels.weight_gradient(in.read(0), m, k, panel, gradient.data() + std::size_t(p) * k * P);
    check_gradient(p);
    Buffer<float> d_bias(P);
    kernels.bias_gradient(panel, m, d_bias.data());
    for (int c = 0; c < P; ++c) {
      double sum = 0;
      for (int r = 0; r < m; ++r) sum += d_out.at(r, p * P + c);
      CHECK(near(sum, d_bias[c], 0));
    }
  }
}

// A dense product reads no more rows of a panel than there are: the next would be another panel's,
// here with an infinite number.
void check_ends_of_panels(const Kernels<float, BFloat16>& kernels) {
  constexpr int m = 4, k = 31, n = 64, column = 40;
  if (kernels.dense.forward == nullptr) return;
  const int P = kernels.panel;
  Panels<float> in(m, k, P), weight(k, n, P), bias(1, n, P), out(m, n, P);
  in.fill(1, 1);
  weight.fill(1, 2);
  weight.at(0, column) = std::numeric_limits<float>::infinity();
  Operands ins(kernels, in), weights(kernels, weight), outs(kernels, out);
  Buffer<BFloat16> room(kernels.dense.room(m, n));
  kernels.dense.forward(ins.read(0), m, k, weights.data.data(), bias.data.data(), n, room.data(),
                        outs.from(0));
  for (int r = 0; r < m; ++r) {
    for (int c = 0; c < n; ++c) CHECK(c == column || std::isfinite(outs.at(r, c)));
  }
}

// A head of two outputs on operands of bf16.
void check_mixed_head(const Kernels<float, BFloat16>& kernels, int m, int k) {
  constexpr int n = 2;
  const int P = kernels.panel;
  Panels<float> in(m, k, P), weight(n, k, P);
  in.fill(0.5, 1);
  weight.fill(1, 2);
  Operands ins(kernels, in), d_ins(kernels, in);
  round(in);
  Buffer<float> head(std::size_t(n) * in.padded), out(m * n), d_out(m * n), d_head(head.size()),
      d_bias(n);
  for (int j = 0; j < n; ++j) {
    for (int c = 0; c < k; ++c) head[std::size_t(j) * in.padded + c] = weight.at(j, c);
  }
  for (int i = 0; i < m * n; ++i) d_out[i] = std::sin(float(i));
  const float bias[n] = {0.5f, -1};
  kernels.head_forward(ins.read(0), m, k, head.data(), bias, n, out.data());
  kernels.head_backward(d_out.data(), m, n, head.data(), ins.read(0), k, 2, d_ins.from(0));
  kernels.head_gradient(ins.read(0), m, k, d_out.data(), n, d_head.data(), d_bias.data());
  for (int r = 0; r < m; ++r) {
    for (int j = 0; j < n; ++j) {
      double sum = bias[j];
      for (int c = 0; c < k; ++c) sum += double(in.at(r, c)) * weight.at(j, c);
      CHECK_NEAR(out[r * n + j], sum, 2e-5);
    }
    for (int c = 0; c < k; ++c) {
      double sum = 0;
      for (int j = 0; j < n; ++j) sum += 2.0 * d_out[r * n + j] * weight.at(j, c);
      if (!(in.at(r, c) > 0)) sum = 0;
      CHECK_NEAR(d_ins.at(r, c), sum, 1e-5 + std::fabs(sum) / 256);
    }
  }
  for (int j = 0; j < n; ++j) {
    for (int c = 0; c < k; ++c) {
      double sum = 0;
      for (int r = 0; r < m; ++r) sum += double(d_out[r * n + j]) * in.at(r, c);
      CHECK_NEAR(d_head[std::size_t(j) * in.padded + c], sum, 2e-5);
    }
  }
}

// Dropout of one row of operands, among others.
void check_dropout(const Kernels<float, BFloat16>& kernels, int m, int k) {
  const int P = kernels.panel, dropped = m / 2;
  Panels<float> in(m, k, P);
  in.fill(1, 1);
  // What is dropped is 0, even so.
  for (int c = 0; c < k; c += 5) in.at(dropped, c) = std::numeric_limits<float>::infinity();
  Operands rows(kernels, in);
  round(in);
  const iql::Dropout dropout{3, 5, iql::kDropoutStream, 0.25};
  constexpr int first = 1003;
  kernels.drop(rows.from(dropped), k, dropout, first);
  for (int r = 0; r < m; ++r) {
    for (int c = 0; c < k; ++c) {
      const int i = first + c;
      const bool kept = iql::draw(3, 5, dropout.stream, i / 4).word[i % 4] >= 1u << 30;
      const float expected = r != dropped ? in.at(r, c) : kept ? in.at(r, c) * float(1 / 0.75) : 0;
      CHECK(rows.at(r, c) == float(BFloat16(expected)));
    }
  }
}

void check_all_mixed() {
  const auto* const* sets = iql::cpu::all_kernels<float, BFloat16>();
  for (; *sets != nullptr; ++sets) {
    if (!iql::cpu::can_run((*sets)->name)) {
      std::printf("this machine cannot run %s\n", (*sets)->name);
      continue;
    }
    for (const int m : {1, 37, 128, 200, 300}) {
      for (const int k : {1, 31, 130, 256, 290}) {
        for (const int n : {1, 33, 150}) check_mixed(**sets, m, k, n, 0.5, false);
      }
    }
    for (const double density : {0.0, 0.05, 1.0}) check_mixed(**sets, 70, 140, 70, density, false);
    check_mixed(**sets, 70, 140, 70, 0.5, true);
    check_mixed_head(**sets, 37, 70);
    check_dropout(**sets, 5, 290);
    check_dropout(**sets, 2, 31);
    check_ends_of_panels(**sets);
  }
}

// Four panels at a time only where they leave room in the L1 cache, and where that is known.
void check_choice() {
  if (!iql::cpu::can_run("avx512bf16")) {
    std::printf("this machine cannot run avx512bf16\n");
    return;
  }
  unsetenv("IQL_FAST_CPU_KERNELS");  // would name another
  const auto chosen = [](long l1_bytes) {
    return std::string(iql::cpu::kernels<float, BFloat16>("", l1_bytes).name);
  };
  CHECK(chosen(48 * 1024) == "avx512bf16-wide");
  CHECK(chosen(32 * 1024) == "avx512bf16");
  CHECK(chosen(0) == "avx512bf16");
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
  check_choice();
  return 0;
}
