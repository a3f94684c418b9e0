#include <algorithm>

#include "cuda/launch.h"
#include "cuda/rows.h"
#include "cuda/step.h"
#include "cuda/update.h"

namespace iql::cuda {
namespace {

int most_tiles(const Problem& p, int first, int last) {
  int most = 0;
  for (int n = first; n < last; ++n) most = std::max(most, tile_count(p.layout(n)));
  return most;
}

// The kernels of a plan.
template <class Precision, int kRows>
struct Kernels {
  static cudaError_t prepare(const Problem& p) {
    const auto allow = [](auto* kernel, std::size_t bytes) {
      return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  static_cast<int>(bytes));
    };
    cudaError_t error = allow(rows_kernel<Precision, kRows>, RowsShared::bytes(p, kRows));
    if (error == cudaSuccess) error = allow(update_kernel<Precision>, UpdateShared::bytes(p));
    if (error == cudaSuccess) error = allow(refresh_kernel<Precision>, UpdateShared::bytes(p));
    return error;
  }

  static cudaError_t rows(const Problem& p, RowsPass pass, cudaStream_t stream) {
    const dim3 grid(p.padded_batch / kRows, row_jobs(p, pass), p.seeds);
    return launch(rows_kernel<Precision, kRows>,
                  {grid, kThreads, RowsShared::bytes(p, kRows), stream}, p, pass);
  }
  // The networks [first, last), and the metrics after the last network.
  static cudaError_t update(const Problem& p, int first, int last, cudaStream_t stream) {
    const int metrics = last == p.networks() ? 1 : 0;
    const dim3 grid(most_tiles(p, first, last), last - first + metrics, p.seeds);
    return launch(update_kernel<Precision>, {grid, kThreads, UpdateShared::bytes(p), stream}, p,
                  first);
  }

  // One of launch_names.
  static cudaError_t part(const Problem& p, int which, cudaStream_t stream) {
    if (which == 0) return rows(p, RowsPass::kTrain, stream);
    if (p.old_value) return update(p, 0, p.networks(), stream);
    if (which == 1) return update(p, engine::kValue, engine::kActor, stream);
    if (which == 2) return rows(p, RowsPass::kNewValue, stream);
    return update(p, engine::kActor, p.networks(), stream);
  }

  static cudaError_t refresh(const Problem& p, cudaStream_t stream) {
    const dim3 grid(most_tiles(p, 0, p.networks()), p.networks(), p.seeds);
    return launch(refresh_kernel<Precision>, {grid, kThreads, UpdateShared::bytes(p), stream}, p);
  }
};

template <class Body>
cudaError_t with_kernels(const StepPlan& plan, const Body& body) {
  if (plan.precision == Precision::kFp32) {
    return plan.block_rows == 16 ? body(Kernels<Fp32, 16>()) : body(Kernels<Fp32, 32>());
  }
  return plan.block_rows == 16 ? body(Kernels<Bf16x3, 16>()) : body(Kernels<Bf16x3, 32>());
}

}  // namespace

StepPlan plan_step(const Problem& p, Precision precision, int multiprocessors) {
  const int blocks = p.padded_batch / 32 * row_jobs(p, RowsPass::kTrain) * p.seeds;
  return {precision, blocks < 2 * multiprocessors ? 16 : 32};
}

std::size_t shared_bytes(const Problem& p, const StepPlan& plan) {
  return std::max(RowsShared::bytes(p, plan.block_rows), UpdateShared::bytes(p));
}

int check_code() {
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, refresh_kernel<Fp32>);
}

int prepare(const Problem& p, const StepPlan& plan) {
  return with_kernels(plan, [&](auto kernels) { return kernels.prepare(p); });
}

std::vector<const char*> launch_names(const Problem& p) {
  if (p.old_value) return {"rows", "weights"};
  return {"rows", "weights of V", "rows with the new V", "weights of the others"};
}

int launch_part(const Problem& p, const StepPlan& plan, int part, void* stream) {
  return with_kernels(
      plan, [&](auto kernels) { return kernels.part(p, part, static_cast<cudaStream_t>(stream)); });
}

int launch_step(const Problem& p, const StepPlan& plan, void* stream) {
  const int parts = p.old_value ? 2 : 4;
  int error = 0;
  for (int i = 0; i < parts && error == 0; ++i) error = launch_part(p, plan, i, stream);
  return error;
}

int launch_refresh(const Problem& p, const StepPlan& plan, void* stream) {
  return with_kernels(
      plan, [&](auto kernels) { return kernels.refresh(p, static_cast<cudaStream_t>(stream)); });
}

}  // namespace iql::cuda
