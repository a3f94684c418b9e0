// The elementwise CUDA kernels under the emulator against the CPU's loops: the same formulas in the
// same arithmetic, but that the CPU's exponentials are in double and its sums in another order.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "check.h"
#include "cpu/elementwise.h"
#include "cuda/elementwise.h"
#include "cuda_runtime.h"
#include "iql/philox.h"

namespace {

using iql::BFloat16;
using iql::Gaussian;
using iql::TdTarget;
using iql::Upstream;

// Of the numbers that T can tell apart.
template <class T>
double tolerance() {
  if (std::is_same<T, double>::value) return 1e-14;
  return std::is_same<T, float>::value ? 4e-6 : 1.6e-2;
}

template <class T>
std::vector<T> waves(std::int64_t n, double phase, double size = 2) {
  std::vector<T> values;
  for (std::int64_t i = 0; i < n; ++i)
    values.push_back(T(size * std::sin(phase + 0.7 * double(i))));
  return values;
}

template <class T>
void check_near(const std::vector<T>& found, const std::vector<T>& expected) {
  CHECK(found.size() == expected.size());
  double largest = 1e-3;
  for (const T& x : expected) largest = std::max(largest, std::fabs(double(x)));
  for (std::size_t i = 0; i < found.size(); ++i) {
    CHECK(std::fabs(double(found[i]) - double(expected[i])) <= tolerance<T>() * largest);
  }
}

// A loss's terms and both of its reductions. `cpu(terms)` returns the sum; `cuda(output)` launches.
template <class T, class Cpu, class Cuda>
void check_loss(std::int64_t n, const Cpu& cpu, const Cuda& cuda) {
  std::vector<T> terms(n), expected(n);
  const double sum = cpu(expected.data());
  std::vector<double> partial(iql::cuda::reduction_blocks(n));
  CHECK(cuda(iql::cuda::LossOutput<T>{terms.data(), nullptr, nullptr, false}) == 0);
  check_near(terms, expected);
  for (const bool mean : {false, true}) {
    std::vector<T> reduced(1);
    CHECK(cuda(iql::cuda::LossOutput<T>{nullptr, reduced.data(), partial.data(), mean}) == 0);
    if (n > 0) check_near(reduced, {T(mean ? sum / double(n) : sum)});
  }
}

template <class T>
void check_losses(std::int64_t n) {
  const auto& loops = iql::cpu::elementwise<T>();
  const std::vector<T> q0 = waves<T>(n, 0), q1 = waves<T>(n, 2), v = waves<T>(n, 1),
                       given = waves<T>(n, 3), one = {T(0.5f)};
  const T* const critics[] = {q0.data(), q1.data()};
  const iql::cpu::Critics<T> q{critics, 2};
  iql::cuda::Critics<T> device_q{{q0.data(), q1.data()}, 2};
  const iql::cpu::Range all{0, n};
  std::vector<T> found(n), expected(n);
  const auto equal = [&] { check_near(found, expected); };

  check_loss<T>(
      n, [&](T* terms) { return loops.expectile(q, v.data(), 0.7, terms, all); },
      [&](auto loss) {
        return iql::cuda::launch_expectile<T>(device_q, v.data(), 0.7, loss, n, nullptr);
      });
  // exp of up to 40, so that the clip acts on some.
  loops.awr_weights(q, v.data(), 10.0, 100.0, expected.data(), all);
  CHECK(iql::cuda::launch_awr_weights<T>(device_q, v.data(), 10.0, 100.0, found.data(), n,
                                         nullptr) == 0);
  equal();
  check_loss<T>(
      n,
      [&](T* terms) {
        return loops.awr(q, v.data(), given.data(), 3.0, 10.0, terms, nullptr, 1, all);
      },
      [&](auto loss) {
        return iql::cuda::launch_awr<T>(device_q, v.data(), given.data(), 3.0, 10.0, loss, n,
                                        nullptr);
      });
  const TdTarget<T> target{given.data(), v.data(), q1.data(), 0.99, n};
  iql::cuda::TdCritics<T> td{{q0.data()}, {found.data()}, {1}, 1};
  check_loss<T>(
      n,
      [&](T* terms) {
        std::fill(terms, terms + n, T(0.0f));
        return loops.squared_td(q0.data(), target, terms, all);
      },
      [&](auto loss) { return iql::cuda::launch_squared_td<T>(td, target, loss, nullptr); });
  for (const Upstream<T>& upstream :
       {Upstream<T>{one.data(), false, 0.25}, Upstream<T>{given.data(), true, 1.0}}) {
    loops.expectile_backward(q, v.data(), 0.7, upstream, expected.data(), all);
    CHECK(iql::cuda::launch_expectile_backward<T>(device_q, v.data(), 0.7, upstream, found.data(),
                                                  n, nullptr) == 0);
    equal();
    loops.awr_weights(q, v.data(), 3.0, 10.0, expected.data(), all);
    for (std::int64_t i = 0; i < n; ++i) {
      const double d_loss = double(upstream.data[upstream.each ? i : 0]) * upstream.scale;
      expected[i] = T(-double(expected[i]) * d_loss);
    }
    CHECK(iql::cuda::launch_awr_backward<T>(device_q, v.data(), 3.0, 10.0, upstream, found.data(),
                                            n, nullptr) == 0);
    equal();
    loops.squared_td_backward(q0.data(), target, upstream, expected.data(), all);
    CHECK(iql::cuda::launch_squared_td_backward<T>(td, target, upstream, nullptr) == 0);
    equal();
  }
}

template <class T>
void check_gaussian(std::int64_t rows, std::int64_t A, bool shared) {
  const auto& loops = iql::cpu::elementwise<T>();
  const std::vector<T> q0 = waves<T>(rows, 0), v = waves<T>(rows, 1), mean = waves<T>(rows * A, 2),
                       action = waves<T>(rows * A, 3), one = {T(0.5f)},
                       log_std = waves<T>(shared ? A : rows * A, 4, 0.5);
  const T* const critics[] = {q0.data()};
  const iql::cpu::Critics<T> q{critics, 1};
  const iql::cuda::Critics<T> device_q{{q0.data()}, 1};
  const Gaussian<T> policy{mean.data(), log_std.data(), action.data(), A, shared};
  const iql::cpu::Range all{0, rows};
  check_loss<T>(
      rows, [&](T* terms) { return loops.gaussian_awr(q, v.data(), policy, 1.0, 5.0, terms, all); },
      [&](auto loss) {
        return iql::cuda::launch_gaussian_awr<T>(device_q, v.data(), policy, 1.0, 5.0, loss, rows,
                                                 nullptr);
      });
  const Upstream<T> upstream{one.data(), false, 0.25};
  std::vector<T> d_mean(rows * A), d_log_std(log_std.size()), expected_mean(rows * A),
      expected_log_std(log_std.size());
  std::vector<double> sums(A);
  loops.gaussian_awr_backward(q, v.data(), policy, 1.0, 5.0, upstream, expected_mean.data(),
                              expected_log_std.data(), sums.data(), all);
  for (std::int64_t a = 0; shared && a < A; ++a) expected_log_std[a] = T(sums[a]);
  CHECK(iql::cuda::launch_gaussian_awr_backward<T>(device_q, v.data(), policy, 1.0, 5.0, upstream,
                                                   d_mean.data(), d_log_std.data(), rows,
                                                   nullptr) == 0);
  check_near(d_mean, expected_mean);
  check_near(d_log_std, expected_log_std);
}

// Lists of two tensors of different lengths.
template <class T>
void check_updates(std::int64_t n) {
  const auto& loops = iql::cpu::elementwise<T>();
  const std::int64_t lengths[] = {n, n / 3 + 1};
  iql::cuda::PolyakList<T> polyak{};
  iql::cuda::AdamList<T> adam{};
  polyak.count = adam.count = 2;
  // Of each tensor: weight, m, v, target, gradient; what the CPU makes of them.
  std::vector<T> arrays[2][5], expected[2][5];
  const float step = 3;
  const auto coefficients = iql::adam_step<double>(1e-2, 3, 0.8, 0.99, 1e-6);
  for (int k = 0; k < 2; ++k) {
    for (int i = 0; i < 5; ++i) arrays[k][i] = waves<T>(lengths[k], i + 5 * k, i == 2 ? 0 : 2);
    auto& [weight, m, v, target, gradient] = expected[k];
    for (int i = 0; i < 5; ++i) expected[k][i] = arrays[k][i];
    const iql::cpu::Range all{0, lengths[k]};
    loops.polyak(target.data(), weight.data(), 0.005, all);
    loops.adam(weight.data(), gradient.data(), m.data(), v.data(), target.data(), coefficients, 0.1,
               0.005, all);
    polyak.target[k] = arrays[k][3].data();
    polyak.source[k] = arrays[k][0].data();
    polyak.n[k] = adam.n[k] = lengths[k];
    adam.weight[k] = arrays[k][0].data();
    adam.m[k] = arrays[k][1].data();
    adam.v[k] = arrays[k][2].data();
    adam.target[k] = arrays[k][3].data();
    adam.gradient[k] = arrays[k][4].data();
    adam.step[k] = &step;
  }
  CHECK(iql::cuda::launch_polyak<T>(polyak, 0.005, nullptr) == 0);
  CHECK(iql::cuda::launch_adam<T>(adam, {1e-2, 0.8, 0.99, 1e-6, 0.1, 0.005}, nullptr) == 0);
  for (int k = 0; k < 2; ++k) {
    for (int i = 0; i < 5; ++i) check_near(arrays[k][i], expected[k][i]);
  }
}

template <class T>
void check_bias_relu(std::int64_t layers, std::int64_t rows, std::int64_t columns) {
  const auto& loops = iql::cpu::elementwise<T>();
  const std::int64_t n = layers * rows * columns;
  std::vector<T> x = waves<T>(n, 0), expected = x, d_x(n), expected_d_x(n),
                 d_bias(layers * columns), expected_d_bias(layers * columns);
  const std::vector<T> bias = waves<T>(layers * columns, 1), d_out = waves<T>(n, 2);
  loops.bias_relu(expected.data(), bias.data(), true, rows, columns, {0, layers * rows});
  CHECK(iql::cuda::launch_bias_relu<T>(x.data(), bias.data(), true, layers, rows, columns,
                                       nullptr) == 0);
  check_near(x, expected);
  for (std::int64_t l = 0; l < layers; ++l) {
    const std::int64_t at = l * rows * columns;
    loops.bias_relu_backward(d_out.data() + at, x.data() + at, columns, expected_d_x.data() + at,
                             expected_d_bias.data() + l * columns, {0, rows});
  }
  CHECK(iql::cuda::launch_bias_relu_backward<T>(d_out.data(), x.data(), layers, rows, columns,
                                                d_x.data(), d_bias.data(), nullptr) == 0);
  check_near(d_x, expected_d_x);
  check_near(d_bias, expected_d_bias);
}

void check_batches() {
  const std::int64_t rows = 50, n = 33;
  std::int64_t state[] = {9, 4}, drawn[33];
  CHECK(iql::cuda::launch_batch_rows(state, drawn, n, rows, nullptr) == 0);
  CHECK(state[0] == 9 && state[1] == 5);
  for (std::int64_t i = 0; i < n; ++i) {
    CHECK(drawn[i] == iql::batch_row(9, 4, static_cast<std::uint32_t>(i), rows));
  }
  // One column in words and one whose rows are no whole words.
  std::vector<char> wide(rows * 12), odd(rows * 5), to_wide(n * 12), to_odd(n * 5);
  for (std::size_t i = 0; i < wide.size(); ++i) wide[i] = static_cast<char>(i * 7);
  for (std::size_t i = 0; i < odd.size(); ++i) odd[i] = static_cast<char>(i * 11);
  iql::cuda::Columns columns{
      {wide.data(), odd.data()}, {to_wide.data(), to_odd.data()}, {12, 5}, 2};
  CHECK(iql::cuda::launch_gather(columns, drawn, n, rows, nullptr) == 0);
  for (std::int64_t i = 0; i < n; ++i) {
    CHECK(std::equal(&to_wide[i * 12], &to_wide[i * 12] + 12, &wide[drawn[i] * 12]));
    CHECK(std::equal(&to_odd[i * 5], &to_odd[i * 5] + 5, &odd[drawn[i] * 5]));
  }
}

template <class T>
void check_all() {
  for (const std::int64_t n : {1, 255, 257, 3000}) {
    check_losses<T>(n);
    check_updates<T>(n);
  }
  for (const bool shared : {false, true}) {
    check_gaussian<T>(37, 3, shared);
    check_gaussian<T>(300, 1, shared);
  }
  check_bias_relu<T>(1, 5, 7);
  check_bias_relu<T>(2, 33, 40);
}

}  // namespace

int main() {
  for (const unsigned schedule : {0u, 1u}) {
    emulator::set_schedule(schedule);
    check_all<float>();
    check_all<double>();
    check_all<BFloat16>();
    check_batches();
  }
}
