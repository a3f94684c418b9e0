// The formulas against hand-worked values and finite differences, in fp32 and fp64.
#include <limits>
#include <vector>

#include "check.h"
#include "cpu/elementwise.h"
#include "iql/awr.h"
#include "iql/expectile.h"
#include "iql/polyak.h"

namespace {

template <class T>
void expectile_has_two_branches(double tolerance) {
  const std::vector<T> q = {2, 0, 1}, v = {0, 2, 1};  // u = 2, -2 and a tie
  std::vector<T> loss(3), d_u(3);
  iql::cpu::expectile<T>(q.data(), v.data(), loss.data(), d_u.data(), 3, T(0.7));
  CHECK_NEAR(loss[0], 0.7 * 4, tolerance);
  CHECK_NEAR(loss[1], 0.3 * 4, tolerance);
  CHECK(loss[2] == T(0));
  CHECK_NEAR(d_u[0], 2 * 0.7 * 2, tolerance);
  CHECK_NEAR(d_u[1], 2 * 0.3 * -2, tolerance);
  CHECK(d_u[2] == T(0));
}

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

template <class T>
void awr_weight_is_clipped(double tolerance) {
  const T inf = std::numeric_limits<T>::infinity(), nan = std::numeric_limits<T>::quiet_NaN();
  const std::vector<T> advantage = {0, 1, -1, 2, 1000, inf, -inf, nan};
  std::vector<T> weight(advantage.size());
  iql::cpu::awr_weights<T>(advantage.data(), weight.data(), 8, T(3), T(100));
  CHECK(weight[0] == T(1));
  CHECK_NEAR(weight[1], std::exp(3.0), tolerance);
  CHECK_NEAR(weight[2], std::exp(-3.0), tolerance);
  for (int saturated = 3; saturated < 6; ++saturated) CHECK(weight[saturated] == T(100));
  CHECK(weight[6] == T(0));
  CHECK(weight[7] != weight[7]);
}

template <class T>
void polyak_moves_towards_the_source(double tolerance) {
  std::vector<T> target = {1, 2, 3};
  const std::vector<T> source = {2, 2, -1};
  iql::cpu::polyak_<T>(target.data(), source.data(), 3, T(0.25));
  CHECK_NEAR(target[0], 1.25, tolerance);
  CHECK(target[1] == T(2));
  CHECK_NEAR(target[2], 2, tolerance);
}

}  // namespace

int main() {
  // Values of size up to 21: a few units in the last place.
  expectile_has_two_branches<float>(1e-6);
  expectile_has_two_branches<double>(1e-14);
  expectile_derivative_is_the_slope_of_the_loss();
  awr_weight_is_clipped<float>(1e-6);
  awr_weight_is_clipped<double>(1e-14);
  polyak_moves_towards_the_source<float>(1e-6);
  polyak_moves_towards_the_source<double>(1e-14);
}
