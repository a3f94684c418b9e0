// The resident step under the emulator, against the steps that are launches: the same bits.
#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "beside.h"
#include "check.h"
#include "cuda/deal.h"
#include "cuda/engine.h"
#include "cuda/resident.h"
#include "cuda/tiles.h"

namespace {

using namespace beside;
using namespace iql::engine;
using iql::cuda::Dealt;
using iql::cuda::Duty;
using iql::cuda::Limits;
using iql::cuda::Problem;

constexpr Precision kBoth[] = {Precision::kFp32, Precision::kBf16x3};
constexpr StepForm kForms[] = {StepForm::kLaunches, StepForm::kResident};

// An H200, in whose shared memory there is more room.
constexpr Limits kH200{132, 227 << 10, true, true};

// Few multiprocessors, so that each block has several rows and tiles to take; and then some more of
// both, so that not all have any.
void set_device(int multiprocessors) {
  emulator::set_multiprocessors(multiprocessors);
  emulator::set_shared_memory(227 << 10);
}

bool equal_metrics(const std::vector<MetricSums>& a, const std::vector<MetricSums>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof a[0]) == 0;
}

// Every number of the state after as many steps, and the sums of the metrics.
void equals_the_launches(const char* name, const Config& c, int steps, int multiprocessors = 4) {
  set_device(multiprocessors);
  for (const Precision precision : kBoth) {
    std::vector<float> states[2];
    std::vector<MetricSums> metrics[2];
    for (int form = 0; form < 2; ++form) {
      emulator::set_schedule(form);
      Training training(c, precision, kForms[form]);
      states[form] = training.state_after(steps);
      std::int64_t counted = 0;
      metrics[form] = training.engine.take_metrics(&counted);
      CHECK(counted == steps);
      CHECK(training.engine.step() == steps);
      CHECK(!training.engine.failure());
      for (const float value : states[form]) CHECK(std::isfinite(value));
    }
    if (!equal(states[0], states[1])) std::fprintf(stderr, "%s\n", name);
    CHECK(equal(states[0], states[1]));
    CHECK(equal_metrics(metrics[0], metrics[1]));
  }
}

}  // namespace

int main() { equals_the_launches("small", small(), 3); }
