#include <algorithm>

#include "cuda/launch.h"
#include "cuda/products_fp32.h"
#include "cuda/products_mma.h"
#include "cuda/products_wgmma.h"
#include "cuda/queue.h"
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

// The launches of a step in one precision.
template <class Precision>
struct Launches {
  const Problem& p;
  const StepPlan& plan;
  cudaStream_t stream;

  static constexpr int kLeastRows = Precision::kLeastRows, kMostRows = Precision::kMostRows;
  static std::size_t rows_bytes(const Problem& p, int rows) {
    return RowsShared::bytes(p, rows, Precision::scratch_size(rows)) +
           WeightQueue<Precision, Way<Precision>>::kBytes;
  }
  static std::size_t update_bytes(const Problem& p) {
    return (UpdateShared<1>::floats(p) + StreamedTile::kState) * sizeof(float);
  }
  static auto* rows_kernel_of(int rows) {
    return rows == kLeastRows ? rows_kernel<Precision, kLeastRows>
                              : rows_kernel<Precision, kMostRows>;
  }

  cudaError_t prepare() const {
    cudaError_t error = cudaSuccess;
    const auto allow = [&](auto* kernel, std::size_t bytes) {
      if (error == cudaSuccess) error = allow_shared(kernel, bytes);
    };
    for (const int rows : {plan.train_rows, plan.value_rows}) {
      allow(rows_kernel_of(rows), rows_bytes(p, rows));
    }
    allow(update_kernel<typename Precision::Base>, update_bytes(p));
    allow(refresh_kernel<typename Precision::Base>, update_bytes(p));
    return error;
  }

  cudaError_t rows(RowsPass pass) const {
    const int rows = pass == RowsPass::kTrain ? plan.train_rows : plan.value_rows;
    const dim3 grid(p.padded_batch / rows, row_jobs(p, pass), p.seeds);
    return launch(rows_kernel_of(rows),
                  {grid, Precision::kRowsThreads, rows_bytes(p, rows), stream, plan.overlaps}, p,
                  pass);
  }
  // The networks [first, last), and the metrics after the last network.
  cudaError_t update(int first, int last) const {
    const int metrics = last == p.networks() ? 1 : 0;
    const dim3 grid(most_tiles(p, first, last), last - first + metrics, p.seeds);
    return launch(update_kernel<typename Precision::Base>,
                  {grid, kThreads, update_bytes(p), stream, plan.overlaps}, p, first);
  }

  // One of launch_names.
  cudaError_t part(int which) const {
    if (which == 0) return rows(RowsPass::kTrain);
    if (p.old_value) return update(0, p.networks());
    if (which == 1) return update(engine::kValue, engine::kActor);
    if (which == 2) return rows(RowsPass::kNewValue);
    return update(engine::kActor, p.networks());
  }

  cudaError_t refresh() const {
    const dim3 grid(most_tiles(p, 0, p.networks()), p.networks(), p.seeds);
    return launch(refresh_kernel<typename Precision::Base>,
                  {grid, kThreads, update_bytes(p), stream}, p);
  }
};

template <class Body>
auto with_launches(const Problem& p, const StepPlan& plan, void* stream, const Body& body) {
  const auto on = static_cast<cudaStream_t>(stream);
  const bool two = plan.halves == 2;
  switch (plan.precision) {
    case Precision::kBf16x3:
      if (plan.wgmma) return body(Launches<Bf16x3Warpgroups>{p, plan, on});
      return two ? body(Launches<Bf16x3Rows<2>>{p, plan, on})
                 : body(Launches<Bf16x3Rows<1>>{p, plan, on});
    case Precision::kTf32:
      return two ? body(Launches<Tf32Rows<2>>{p, plan, on})
                 : body(Launches<Tf32Rows<1>>{p, plan, on});
    case Precision::kFp32:
      break;
  }
  return body(Launches<Fp32>{p, plan, on});
}

}  // namespace

StepPlan plan_step(const Problem& p, Precision precision, const Limits& limits) {
  StepPlan plan{
      precision, 16, 16, 2, limits.overlaps, limits.wgmma && precision == Precision::kBf16x3};
  if (shared_bytes(p, plan) > limits.shared_of_block) plan.halves = 1;
  const auto rows = [&](RowsPass pass) {
    return with_launches(p, plan, nullptr, [&](auto launches) {
      const int least = launches.kLeastRows, most = launches.kMostRows;
      const int blocks = p.padded_batch / most * row_jobs(p, pass) * p.seeds;
      const bool many = blocks >= limits.multiprocessors;
      return many && launches.rows_bytes(p, most) <= limits.shared_of_block ? most : least;
    });
  };
  plan.train_rows = rows(RowsPass::kTrain);
  plan.value_rows = rows(RowsPass::kNewValue);
  return plan;
}

std::size_t shared_bytes(const Problem& p, const StepPlan& plan) {
  return with_launches(p, plan, nullptr, [&](auto launches) {
    return std::max({launches.rows_bytes(p, plan.train_rows),
                     launches.rows_bytes(p, plan.value_rows), launches.update_bytes(p)});
  });
}

int check_code() {
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, refresh_kernel<Fp32>);
}

bool has_wgmma() {
  cudaFuncAttributes attributes{};
  auto* kernel = rows_kernel<Bf16x3Warpgroups, Bf16x3Warpgroups::kMostRows>;
  return cudaFuncGetAttributes(&attributes, kernel) == cudaSuccess &&
         attributes.maxThreadsPerBlock >= Bf16x3Warpgroups::kRowsThreads;
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
