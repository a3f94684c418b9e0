// Both forms of a step on the emulated device: launches, and resident with room for so many seeds.
#pragma once

#include <cuda_runtime.h>

#include <cstring>
#include <vector>

#include "beside.h"
#include "check.h"
#include "cuda/engine.h"
#include "cuda/resident.h"

namespace both_forms {

using namespace beside;
using iql::cuda::Limits;

constexpr Precision kPrecisions[] = {Precision::kFp32, Precision::kBf16x3, Precision::kTf32};
constexpr StepForm kForms[] = {StepForm::kLaunches, StepForm::kResident};

// An H200, in whose shared memory there is more room.
constexpr Limits kH200{132, 227 << 10, true, true};

// With few multiprocessors each block has several rows and tiles to take; with many, some have
// none.
inline void set_device(int multiprocessors, std::size_t shared = kH200.shared_of_block) {
  emulator::set_multiprocessors(multiprocessors);
  emulator::set_shared_memory(shared);
}

// A device whose blocks have no more shared memory than the tiles of so many seeds call for.
inline void set_room(Config c, Precision precision, int multiprocessors, int seeds) {
  c.seeds.resize(seeds);
  c.hyper.resize(seeds);
  const auto p = iql::cuda::plan(c);
  const Limits roomy{multiprocessors, std::size_t{1} << 30, true, true};
  const auto plan = plan_resident(p, plan_step(p, precision, roomy), roomy);
  CHECK(plan.groups.size() == 1);
  set_device(multiprocessors, plan.shared_bytes);
}

inline bool equal_metrics(const std::vector<MetricSums>& a, const std::vector<MetricSums>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof a[0]) == 0;
}

}  // namespace both_forms
