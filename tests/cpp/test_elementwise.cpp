// The formulas against hand-worked values and finite differences, and the elementwise loops of
// every instruction set against the formulas, in fp32, fp64 and bf16.
#include <cmath>
#include <cstdio>
#include <limits>
#include <vector>

#include "check.h"
#include "cpu/elementwise.h"
#include "cpu/kernels.h"
#include "iql/awr.h"
#include "iql/expectile.h"
#include "iql/exponential.h"
#include "iql/gaussian.h"
#include "iql/philox.h"
#include "iql/polyak.h"
#include "iql/twin_q.h"

namespace {

using iql::BFloat16;
using iql::cpu::Elementwise;
using iql::cpu::Range;

void expectile_derivative_is_the_slope_of_the_loss() {
  const double h = 1e-6;
  for (const double tau : {0.5, 0.7, 0.9}) {
    for (const double u : {-3.0, -0.1, 0.1, 3.0}) {
      const double slope =
          (iql::expectile(u + h, tau).loss - iql::expectile(u - h, tau).loss) / (2 * h);
      CHECK_NEAR(iql::expectile(u, tau).d_u, slope, 1e-8);
    }
  }
}

void normal_derivatives_are_the_slopes_of_the_log_probability() {
  const double h = 1e-6, action = 0.3;
  for (const double mean : {-1.0, 0.2}) {
    for (const double log_std : {-2.0, 0.5}) {
      const auto log_prob = [&](double m, double s) {
        return iql::normal_term(action, m, s, std::exp(-s)).log_prob;
      };
      const auto term = iql::normal_term(action, mean, log_std, std::exp(-log_std));
      const double by_mean = (log_prob(mean + h, log_std) - log_prob(mean - h, log_std)) / (2 * h);
      const double by_std = (log_prob(mean, log_std + h) - log_prob(mean, log_std - h)) / (2 * h);
      CHECK_NEAR(term.d_mean, by_mean, 1e-6);
      CHECK_NEAR(term.d_log_std, by_std, 1e-6);
    }
  }
}

void exponential_is_that_of_the_library() {
  for (double x = -745.0; x < 709.7; x += 0.37) {
    const double expected = std::exp(x);
    CHECK(std::fabs(iql::exponential<double>(x) - expected) <= 5e-16 * expected + 5e-324);
  }
  for (float x = -103.0f; x < 88.7f; x += 0.093f) {
    const double expected = std::exp(double(x));
    CHECK(std::fabs(iql::exponential<float>(x) - expected) <= 1e-9 * expected);
  }
  const double inf = std::numeric_limits<double>::infinity();
  CHECK(iql::exponential<double>(0.0) == 1.0);
  CHECK(iql::exponential<double>(inf) == inf);
  CHECK(iql::exponential<double>(-inf) == 0.0);
  CHECK(std::isnan(iql::exponential<double>(std::nan(""))));
  CHECK(float(iql::exponential<float>(inf)) == inf);
  CHECK(float(iql::exponential<float>(-inf)) == 0.0f);
  CHECK(std::isnan(iql::exponential<float>(std::nan(""))));
}

void bfloat16_rounds_to_nearest_even() {
  CHECK(float(BFloat16(1.0f)) == 1.0f);
  CHECK(float(BFloat16(1.0f + 1.0f / 256)) == 1.0f);               // a tie, to even
  CHECK(float(BFloat16(1.0f + 3.0f / 256)) == 1.0f + 4.0f / 256);  // a tie, to even
  CHECK(float(BFloat16(1.0f + 1.1f / 256)) == 1.0f + 2.0f / 256);
  CHECK(std::isinf(float(BFloat16(3.4e38f))));
  CHECK(std::isnan(float(BFloat16(std::nanf("")))));
}

template <class T>
std::vector<T> numbers(int n, int seed) {
  std::vector<T> made(n);
  unsigned state = 12345u + 977u * seed;
  for (T& x : made) {
    state = state * 1664525u + 1013904223u;
    x = T(float(int(state >> 8) % 4001 - 2000) / 1000.0f);
  }
  return made;
}

// Sizes around the blocks and lanes of the loops.
constexpr int kSizes[] = {0, 1, 15, 17, 255, 256, 257, 1000};

template <class T>
void loops_equal_the_formulas(const Elementwise<T>& loops, double tolerance) {
  for (const int n : kSizes) {
    const auto q1 = numbers<T>(n, 1), q2 = numbers<T>(n, 2), v = numbers<T>(n, 3);
    const auto fit = numbers<T>(n, 4);
    const T* critics[] = {q1.data(), q2.data()};
    std::vector<T> out(n), weight(n);
    const Range all{0, n};

    double sum = loops.expectile({critics, 2}, v.data(), 0.7, out.data(), all), expected = 0;
    const auto u = [&](int i) { return std::fmin(double(q1[i]), double(q2[i])) - double(v[i]); };
    for (int i = 0; i < n; ++i) {
      const double loss = iql::expectile(u(i), 0.7).loss;
      CHECK_NEAR(double(out[i]), loss, tolerance * 16);
      expected += loss;
    }
    CHECK_NEAR(sum, expected, 1e-5 * (1 + expected));

    const T one = T(1.0f);
    loops.expectile_backward({critics, 2}, v.data(), 0.7, {&one, false, 0.5}, out.data(), all);
    for (int i = 0; i < n; ++i) {
      CHECK_NEAR(double(out[i]), -0.5 * iql::expectile(u(i), 0.7).d_u, tolerance * 8);
    }

    loops.awr_weights({critics, 2}, v.data(), 3, 100, weight.data(), all);
    std::vector<T> d_fit(n);
    sum = loops.awr({critics, 2}, v.data(), fit.data(), 3, 100, out.data(), d_fit.data(), 0.5, all);
    expected = 0;
    for (int i = 0; i < n; ++i) {
      const double w = iql::awr_weight(u(i), 3.0, 100.0);
      CHECK_NEAR(double(weight[i]), w, tolerance * 100);
      CHECK_NEAR(double(out[i]), -w * double(fit[i]), tolerance * 400);
      CHECK_NEAR(double(d_fit[i]), -0.5 * w, tolerance * 100);
      expected -= w * double(fit[i]);
    }
    CHECK_NEAR(sum, expected, 1e-9 * (1 + 200.0 * n));

    std::vector<T> target = q1;
    loops.polyak(target.data(), q2.data(), 0.25, all);
    for (int i = 0; i < n; ++i) {
      CHECK_NEAR(double(target[i]), iql::polyak(double(q1[i]), double(q2[i]), 0.25), tolerance * 4);
    }

    const Range part{n / 3, n};  // begins within four words
    loops.dropout_factors({7, 5, iql::kDropoutStream, 0.5}, out.data(), part);
    for (std::int64_t i = part.begin; i < part.end; ++i) {
      const std::uint32_t word =
          iql::draw(7, 5, iql::kDropoutStream, std::uint32_t(i / 4)).word[i % 4];
      const T expected = T(word >= iql::dropout_threshold(0.5) ? 2.0f : 0.0f);
      CHECK(double(out[i - part.begin]) == double(expected));
    }
  }
}

// Adam with a target, over two parts of an array, against the formula.
template <class T>
void adam_equals_the_formula(const Elementwise<T>& loops, double tolerance) {
  const int n = 300;
  auto weight = numbers<T>(n, 1), m = numbers<T>(n, 2), v = numbers<T>(n, 3);
  auto target = numbers<T>(n, 4);
  const auto gradient = numbers<T>(n, 5);
  for (T& x : v) x = T(std::fabs(double(x)) + 0.1);
  const auto before = std::vector<std::vector<T>>{weight, m, v, target};
  const auto step = iql::adam_step<double>(1e-2, 7, 0.8, 0.95, 1e-6);
  loops.adam(weight.data(), gradient.data(), m.data(), v.data(), target.data(), step, 0.1, 0.25,
             {0, 100});
  loops.adam(weight.data(), gradient.data(), m.data(), v.data(), target.data(), step, 0.1, 0.25,
             {100, n});
  for (int i = 0; i < n; ++i) {
    double w = double(before[0][i]), a = double(before[1][i]), b = double(before[2][i]);
    iql::adam_update(w, a, b, double(gradient[i]) + 0.1 * w, step);
    CHECK_NEAR(double(weight[i]), w, tolerance * 4);
    CHECK_NEAR(double(m[i]), a, tolerance * 4);
    CHECK_NEAR(double(v[i]), b, tolerance * 8);
    CHECK_NEAR(double(target[i]), iql::polyak(double(before[3][i]), w, 0.25), tolerance * 4);
  }
}

template <class T>
void sums_are_the_same_in_every_set() {
  const int n = 5000;
  const auto q = numbers<T>(n, 1), v = numbers<T>(n, 2);
  const T* critics[] = {q.data()};
  double first = 0;
  bool have_first = false;
  for (auto set = iql::cpu::all_elementwise<T>(); *set != nullptr; ++set) {
    if (!iql::cpu::can_run((*set)->name)) continue;
    const double sum = (*set)->expectile({critics, 1}, v.data(), 0.7, nullptr, {0, n});
    if (have_first) CHECK(sum == first);
    first = sum;
    have_first = true;
  }
  CHECK(have_first);
}

template <class T>
void every_set(double tolerance) {
  int sets = 0;
  for (auto set = iql::cpu::all_elementwise<T>(); *set != nullptr; ++set) {
    if (!iql::cpu::can_run((*set)->name)) continue;
    loops_equal_the_formulas<T>(**set, tolerance);
    adam_equals_the_formula<T>(**set, tolerance);
    ++sets;
  }
  CHECK(sets > 0);
  sums_are_the_same_in_every_set<T>();
}

}  // namespace

int main() {
  expectile_derivative_is_the_slope_of_the_loss();
  normal_derivatives_are_the_slopes_of_the_log_probability();
  exponential_is_that_of_the_library();
  bfloat16_rounds_to_nearest_even();
  // Per unit of size, a few units in the last place.
  every_set<float>(5e-7);
  every_set<double>(1e-15);
  every_set<BFloat16>(5e-3);
}
