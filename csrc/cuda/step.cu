#include <algorithm>

#include "cuda/launch.h"
#include "cuda/queue.h"
#include "cuda/rows.h"
#include "cuda/step.h"
#include "cuda/update.h"

namespace iql::cuda {
namespace {

constexpr std::size_t kSharedOfSystem = 1024;  // that a block takes beside its own

int most_tiles(const Problem& p, int tile, int first, int last) {
  int most = 0;
  for (int n = first; n < last; ++n) most = std::max(most, tile_count(p.layout(n), tile));
  return most;
}

// The launches of a step in one precision.
template <class Precision>
struct Launches {
  const Problem& p;
  const StepPlan& plan;
  cudaStream_t stream;

  static std::size_t rows_bytes(const Problem& p, const RowsPlan& rows) {
    return RowsShared::bytes(p, rows.rows, Precision::kScratch) +
           WeightQueue<Precision, RowsProducts<Precision>>::bytes(rows.queue_slots);
  }
  static int blocks_together(int rows) { return Precision::blocks_together(rows); }
  static std::size_t update_bytes(const Problem& p, int tile) {
    return tile == 32 ? UpdateShared<32>::bytes(p) : UpdateShared<64>::bytes(p);
  }

  static cudaError_t allow(const void* kernel, std::size_t bytes) {
    return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                static_cast<int>(bytes));
  }
  cudaError_t prepare() const {
    cudaError_t error = cudaSuccess;
    const auto need = [&](auto* kernel, std::size_t bytes) {
      if (error == cudaSuccess) error = allow(reinterpret_cast<const void*>(kernel), bytes);
    };
    const auto most_rows_bytes = std::max(rows_bytes(p, plan.train), rows_bytes(p, plan.value));
    for (const RowsPlan& rows : {plan.train, plan.value}) {
      need(rows.rows == 16 ? rows_kernel<Precision, 16> : rows_kernel<Precision, 32>,
           most_rows_bytes);
    }
    for (const int tile : {plan.value_tile, plan.others_tile}) {
      need(tile == 32 ? update_kernel<Precision, 32> : update_kernel<Precision, 64>,
           update_bytes(p, tile));
    }
    need(refresh_kernel<Precision>, update_bytes(p, 64));
    return error;
  }

  cudaError_t rows(RowsPass pass) const {
    const RowsPlan& rows = pass == RowsPass::kTrain ? plan.train : plan.value;
    const dim3 grid(p.padded_batch / rows.rows, row_jobs(p, pass), p.seeds);
    return launch(rows.rows == 16 ? rows_kernel<Precision, 16> : rows_kernel<Precision, 32>,
                  {grid, kThreads, rows_bytes(p, rows), stream, plan.overlaps}, p, pass,
                  rows.queue_slots);
  }
  // The networks [first, last), and the metrics after the last network.
  cudaError_t update(int tile, int first, int last) const {
    const int metrics = last == p.networks() ? 1 : 0;
    const dim3 grid(most_tiles(p, tile, first, last), last - first + metrics, p.seeds);
    return launch(tile == 32 ? update_kernel<Precision, 32> : update_kernel<Precision, 64>,
                  {grid, kThreads, update_bytes(p, tile), stream, plan.overlaps}, p, first);
  }

  // One of launch_names.
  cudaError_t part(int which) const {
    if (which == 0) return rows(RowsPass::kTrain);
    if (p.old_value) return update(plan.others_tile, 0, p.networks());
    if (which == 1) return update(plan.value_tile, engine::kValue, engine::kActor);
    if (which == 2) return rows(RowsPass::kNewValue);
    return update(plan.others_tile, engine::kActor, p.networks());
  }

  cudaError_t refresh() const {
    const dim3 grid(most_tiles(p, 64, 0, p.networks()), p.networks(), p.seeds);
    return launch(refresh_kernel<Precision>, {grid, kThreads, update_bytes(p, 64), stream}, p);
  }
};

template <class Body>
auto with_launches(const Problem& p, const StepPlan& plan, void* stream, const Body& body) {
  const auto on = static_cast<cudaStream_t>(stream);
  return plan.precision == Precision::kFp32 ? body(Launches<Fp32>{p, plan, on})
                                            : body(Launches<Bf16x3>{p, plan, on});
}

}  // namespace

StepPlan plan_step(const Problem& p, Precision precision, const Limits& limits) {
  StepPlan of_precision{};
  of_precision.precision = precision;
  // Large blocks where there are enough of them to go around.
  const auto rows = [&](RowsPass pass, int per_multiprocessor) -> RowsPlan {
    const int blocks = p.padded_batch / 32 * row_jobs(p, pass) * p.seeds;
    const bool few = blocks < per_multiprocessor * limits.multiprocessors;
    RowsPlan plan{few ? 16 : 32, 8};
    // As long a queue as leaves room for the blocks that come to a multiprocessor.
    with_launches(p, of_precision, nullptr, [&](auto launches) {
      const int all = p.padded_batch / plan.rows * row_jobs(p, pass) * p.seeds;
      const int room = launches.blocks_together(plan.rows);
      const std::size_t together = all <= limits.multiprocessors ? 1 : room;
      const auto fits = [&] {
        const std::size_t bytes = launches.rows_bytes(p, plan);
        return bytes <= limits.shared_of_block &&
               together * (bytes + kSharedOfSystem) <= limits.shared_of_multiprocessor;
      };
      while (plan.queue_slots > 2 && !fits()) plan.queue_slots /= 2;
      if (launches.rows_bytes(p, plan) > limits.shared_of_block) plan.rows = 16;
      return 0;
    });
    return plan;
  };
  const auto tile = [&](int first, int last) {
    const int blocks = most_tiles(p, 64, first, last) * (last - first) * p.seeds;
    return blocks < 2 * limits.multiprocessors ? 32 : 64;
  };
  return {precision, rows(RowsPass::kTrain, 2), rows(RowsPass::kNewValue, 1),
          tile(engine::kValue, engine::kActor),
          tile(p.old_value ? engine::kValue : engine::kActor, p.networks()), limits.overlaps};
}

std::size_t shared_bytes(const Problem& p, const StepPlan& plan) {
  return with_launches(p, plan, nullptr, [&](auto launches) {
    return std::max({launches.rows_bytes(p, plan.train), launches.rows_bytes(p, plan.value),
                     launches.update_bytes(p, plan.value_tile),
                     launches.update_bytes(p, plan.others_tile), launches.update_bytes(p, 64)});
  });
}

int check_code() {
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, refresh_kernel<Fp32>);
}

int prepare(const Problem& p, const StepPlan& plan) {
  return with_launches(p, plan, nullptr, [](auto launches) { return launches.prepare(); });
}

std::vector<const char*> launch_names(const Problem& p) {
  if (p.old_value) return {"rows", "weights"};
  return {"rows", "weights of V", "rows with the new V", "weights of the others"};
}

int launch_part(const Problem& p, const StepPlan& plan, int part, void* stream) {
  return with_launches(p, plan, stream, [part](auto launches) { return launches.part(part); });
}

int launch_step(const Problem& p, const StepPlan& plan, void* stream) {
  const int parts = p.old_value ? 2 : 4;
  int error = 0;
  for (int i = 0; i < parts && error == 0; ++i) error = launch_part(p, plan, i, stream);
  return error;
}

int launch_refresh(const Problem& p, const StepPlan& plan, void* stream) {
  return with_launches(p, plan, stream, [](auto launches) { return launches.refresh(); });
}

}  // namespace iql::cuda
