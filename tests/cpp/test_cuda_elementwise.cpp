// The elementwise CUDA kernels under the emulator against the CPU's loops: the same formulas, so
// the same bits.
#include <cmath>
#include <vector>

#include "check.h"
#include "cpu/elementwise.h"
#include "cuda/elementwise.h"

namespace {

std::vector<float> waves(std::int64_t n, float phase) {
  std::vector<float> values(n);
  for (std::int64_t i = 0; i < n; ++i) values[i] = 2 * std::sin(phase + 0.7f * float(i));
  return values;
}

void equal_to_the_cpu(std::int64_t n) {
  const std::vector<float> q = waves(n, 0), v = waves(n, 1);
  std::vector<float> a(n), b(n), expected_a(n), expected_b(n);
  CHECK(iql::cuda::launch_expectile(q.data(), v.data(), a.data(), b.data(), n, 0.7f, nullptr) == 0);
  iql::cpu::expectile(q.data(), v.data(), expected_a.data(), expected_b.data(), n, 0.7f);
  CHECK(a == expected_a);
  CHECK(b == expected_b);
  // exp of up to 20, so that the clip acts on some.
  CHECK(iql::cuda::launch_awr_weights(q.data(), a.data(), n, 10.0f, 100.0f, nullptr) == 0);
  iql::cpu::awr_weights(q.data(), expected_a.data(), n, 10.0f, 100.0f);
  CHECK(a == expected_a);
  a = q;
  expected_a = q;
  CHECK(iql::cuda::launch_polyak_(a.data(), v.data(), n, 0.005f, nullptr) == 0);
  iql::cpu::polyak_(expected_a.data(), v.data(), n, 0.005f);
  CHECK(a == expected_a);
}

}  // namespace

int main() {
  for (const std::int64_t n : {0, 1, 255, 256, 257, 5000}) equal_to_the_cpu(n);
}
