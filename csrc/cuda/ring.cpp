#include "cuda/ring.h"

#include <algorithm>
#include <cstdio>
#include <stdexcept>
#include <string>

namespace iql::cuda {
namespace {

constexpr std::int64_t kStagedSlots = 256;

}  // namespace

Ring::Ring(const Problem& problem, const engine::Dataset& data)
    : seeds_(problem.seeds),
      obs_dim_(problem.obs_dim),
      act_dim_(problem.act_dim),
      line_(std::int64_t(problem.seeds) * problem.record_size()),
      met_(data.met),
      slots_(data.slots),
      capacity_(data.capacity),
      staged_(std::min(data.slots, kStagedSlots)) {
  const std::size_t bytes = std::size_t(slots_) * line_ * sizeof(float);
  void* memory = nullptr;
  if (cudaMalloc(&memory, bytes) != cudaSuccess) {
    cudaGetLastError();
    char size[32];
    std::snprintf(size, sizeof size, "%.1f GiB", double(bytes) / (1 << 30));
    throw std::runtime_error("the CUDA device has not the " + std::string(size) +
                             " of memory for " + std::to_string(slots_) +
                             " transitions to be met by each of " + std::to_string(seeds_) +
                             " seeds");
  }
  records_ = DeviceMemory(memory);
  for (Stage& stage : stages_) {
    stage.memory = allocate_pinned(sizeof(Source) + staged_ * line_ * sizeof(float));
    cudaEvent_t created = nullptr;
    check(cudaEventCreateWithFlags(&created, cudaEventDisableTiming), "cudaEventCreate");
    stage.copied = Event(created);
  }
}

void Ring::pack(std::int64_t slot, std::int64_t count, float* to) const {
  const auto take = [&](const float* column, int width, std::int64_t row) {
    to = std::copy_n(column + row * width, width, to);
  };
  for (std::int64_t end = slot + count; slot < end; ++slot) {
    for (int s = 0; s < seeds_; ++s) {
      const std::int64_t row = s * slots_ + slot;
      take(met_.observations, obs_dim_, row);
      take(met_.actions, act_dim_, row);
      take(met_.next_observations, obs_dim_, row);
      take(met_.rewards, 1, row);
      take(met_.masks, 1, row);
    }
  }
}

void Ring::bring(std::int64_t met_rows, const Source& source, Source* to, cudaStream_t stream) {
  const auto copy = [stream](void* at, const void* from, std::size_t bytes) {
    check(cudaMemcpyAsync(at, from, bytes, cudaMemcpyHostToDevice, stream),
          "copying what was met to the device");
  };
  const std::int64_t newest = std::max<std::int64_t>(met_rows - 1, 0);
  std::int64_t number = std::max(std::min(settled_, newest), met_rows - slots_);
  do {
    const Stage& stage = stages_[turn_];
    turn_ ^= 1;
    check(cudaEventSynchronize(stage.copied.get()), "copying what was met to the device");
    const std::int64_t slot = number % capacity_;
    const std::int64_t count = std::min({met_rows - number, staged_, slots_ - slot});
    if (count > 0) {
      pack(slot, count, stage.records());
      copy(as<float>(records_) + slot * line_, stage.records(), count * line_ * sizeof(float));
    }
    number += count;
    if (number == met_rows) {
      *stage.source() = source;
      copy(to, stage.source(), sizeof source);
    }
    check(cudaEventRecord(stage.copied.get(), stream), "cudaEventRecord");
  } while (number < met_rows);
  settled_ = newest;
}

}  // namespace iql::cuda
