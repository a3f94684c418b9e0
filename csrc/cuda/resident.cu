#include <algorithm>
#include <type_traits>

#include "cuda/grid_barrier.h"
#include "cuda/launch.h"
#include "cuda/products_fp32.h"
#include "cuda/products_mma.h"
#include "cuda/queue.h"
#include "cuda/resident.h"
#include "cuda/resident_tile.h"
#include "cuda/rows.h"

// Before sm_100 a block of 512 threads is a few registers short. What spills is what the loop over
// the parts of steps carries, its counter and places that follow from the thread's number: stored
// once, and read again once a part or a tile, in no loop within these.

// spills allowed: resident_kernel

namespace iql::cuda {
namespace {

constexpr int kRows = 16;  // that a block takes through a network at a time

// A block's shared memory: what rows and updates have in turn, so many floats; its duties; the
// tiles that it keeps. And the seeds whose steps the launch does.
struct BlockShape {
  int work_floats, duties;
  SeedRange seeds;
};

// A precision's block: all of its threads take rows through a network, and teams of them update
// tiles.
template <class Precision>
struct ResidentBlock {
  using Base = typename Precision::Base;
  static constexpr int kTeams = Precision::kRowsThreads / kThreads;
  using Shared = UpdateShared<kTeams>;

  const Problem& p;
  const BlockShape& shape;

  // Made of the kernel's parameters each time, since registers are few.
  __device__ Duty* duties() const {
    return reinterpret_cast<Duty*>(shared_floats() + shape.work_floats);
  }
  __device__ ResidentTile<Base> tile(const Duty& duty, const TilePlace& place) const {
    float* states = reinterpret_cast<float*>(duties() + shape.duties);
    return ResidentTile<Base>(p, duty.seed, duty.network, place, states + duty.state);
  }

  static int work_floats(const Problem& p) {
    const std::size_t rows = RowsShared::bytes(p, kRows, Precision::scratch_size(kRows)) +
                             WeightQueue<Precision, Way<Precision>>::kBytes;
    return padded(std::max(static_cast<int>(rows / sizeof(float)), kTeams * Shared::floats(p)));
  }
  static std::size_t bytes(const Problem& p, const Dealt& dealt) {
    return (work_floats(p) + dealt.floats) * sizeof(float) + dealt.most * sizeof(Duty);
  }

  // body(duty) for each of the team's in the networks from `first` to `last`.
  template <class Body>
  __device__ void for_duties(int first, int last, const Body& body) const {
#pragma unroll 1
    for (int i = Shared::team(); i < shape.duties; i += kTeams) {
      const Duty duty = duties()[i];
      if (duty.seed >= 0 && duty.network >= first && duty.network <= last) body(duty);
    }
  }

  // body(tile, its network, its place) for each of the team's, once a launch.
  template <class Body>
  __device__ void for_tiles(const Body& body) const {
    for_duties(0, p.networks() - 1, [&](const Duty& duty) {
      const NetworkLayout& net = p.layout(duty.network);
      const TilePlace place = tile_place(net, duty.tile);
      body(tile(duty, place), net, place);
    });
  }

  __device__ void rows(RowsPass pass) const {
    const int blocks = p.padded_batch / kRows, jobs = row_jobs(p, pass);
#pragma unroll 1
    for (int i = blockIdx.x; i < blocks * jobs * shape.seeds.count; i += gridDim.x) {
      if (i >= static_cast<int>(gridDim.x)) __syncthreads();  // the shared memory is read
      take_rows<Precision, kRows>(p, pass, i % blocks, i / blocks % jobs,
                                  shape.seeds.first + i / (blocks * jobs), [] {});
    }
  }

  // The networks from `first` to `last`; past the last network stand the metrics.
  __device__ void update(int first, int last) const {
    const Shared shared(p);
    bool again = false;
    const auto begin = [&again] {
      if (again) Shared::sync();  // the shared memory is read
      again = true;
    };
    for_duties(first, last < p.networks() ? last : last - 1, [&](const Duty& duty) {
      begin();
      const TilePlace place = tile_place(p.layout(duty.network), duty.tile);
      update_tile<Base>(p, duty.seed, duty.network, place, shared, tile(duty, place), [] {});
    });
    if (last < p.networks()) return;
    for_duties(last, last, [&](const Duty& duty) {
      begin();
      add_metrics(p, duty.seed, shared.slices, [] { Shared::sync(); });
    });
  }
};

// Grid: as many blocks as the device has multiprocessors, or as there is work for.
//
// Why no block reads what is old. What one block writes in a part of a step (workspace, operands,
// biases, heads, Adam's coefficients, the clock) and others read in the next has passed a barrier
// of the grid, which orders plain loads: its acquire empties the L1 cache that they go through.
// Copies to shared memory are cp.async.cg, which go to L2 whatever L1 holds, and are begun after
// the barrier. No load goes through the path for constant data (ld.global.nc), which nothing
// orders, but those of the tables of CUDA's own cosine: the pointers are members of a structure,
// and no __restrict__ parameters.
template <class Precision>
__global__ void __launch_bounds__(Precision::kRowsThreads, 1)
    resident_kernel(const __grid_constant__ Problem p,
                    const __grid_constant__ ResidentMemory memory,
                    const __grid_constant__ BlockShape shape, int steps) {
  touch_parameter(p);
  const ResidentBlock<Precision> block{p, shape};
  for (int i = threadIdx.x; i < shape.duties; i += Precision::kRowsThreads) {
    block.duties()[i] = memory.duties[blockIdx.x * shape.duties + i];
  }
  __syncthreads();
  block.for_tiles([](const auto& tile, const NetworkLayout& net, const TilePlace& place) {
    tile.load(net, place);
  });

  // Rows, V's tiles, rows with the new V, the others' tiles; or rows and all tiles.
  const int parts = p.old_value ? 2 : 4;
#pragma unroll 1
  for (int part = 0; part < steps * parts; ++part) {
    if (part > 0) wait_for_grid(memory.arrived, part);
    const int of_step = part % parts;
    if (of_step % 2 == 0) {
      block.rows(of_step == 0 ? RowsPass::kTrain : RowsPass::kNewValue);
    } else {
      block.update(of_step == 3 ? engine::kActor : engine::kValue,
                   of_step == parts - 1 ? p.networks() : engine::kValue);
    }
  }

  __syncthreads();
  block.for_tiles([](const auto& tile, const NetworkLayout& net, const TilePlace& place) {
    tile.store(net, place);
  });
}

// body(of a precision's type) with that of a plan.
template <class Precision>
struct Of {
  using Type = Precision;
};
template <class Body>
auto with_precision(const StepPlan& plan, const Body& body) {
  const bool two = plan.halves == 2;
  switch (plan.precision) {
    case Precision::kBf16x3:
      return two ? body(Of<Bf16x3Rows<2>>{}) : body(Of<Bf16x3Rows<1>>{});
    case Precision::kTf32:
      return two ? body(Of<Tf32Rows<2>>{}) : body(Of<Tf32Rows<1>>{});
    case Precision::kFp32:
      break;
  }
  return body(Of<Fp32>{});
}

}  // namespace

ResidentPlan plan_resident(const Problem& p, const StepPlan& step, const Limits& limits) {
  const int rows = p.padded_batch / kRows * row_jobs(p, RowsPass::kTrain);
  int tiles = 0;
  for (int network = 0; network < p.networks(); ++network) tiles += tile_count(p.layout(network));
  const auto group_of = [&](SeedRange seeds) {
    const int blocks = std::min(limits.multiprocessors, std::max(rows, tiles) * seeds.count);
    return ResidentGroup{seeds, deal(p, seeds, blocks)};
  };
  const auto bytes = [&](const ResidentGroup& group) {
    return with_precision(step, [&](auto of) {
      return ResidentBlock<typename decltype(of)::Type>::bytes(p, group.dealt);
    });
  };
  int most = 1;  // of which fewer fit too
  while (most < p.seeds && bytes(group_of({0, most + 1})) <= limits.shared_of_block) ++most;
  const int groups = (p.seeds + most - 1) / most;
  ResidentPlan plan{step, {}, 0};
  for (int g = 0; g < groups; ++g) {
    const int first = p.seeds * g / groups, next = p.seeds * (g + 1) / groups;
    plan.groups.push_back(group_of({first, next - first}));
    plan.shared_bytes = std::max(plan.shared_bytes, bytes(plan.groups.back()));
  }
  return plan;
}

int seeds_at_once_of(const ResidentPlan& plan) {
  int most = 0;
  for (const ResidentGroup& group : plan.groups) most = std::max(most, group.seeds.count);
  return most;
}

std::string resident_reason(const ResidentPlan& plan, const Limits& limits) {
  if (!limits.cooperates) return "the device has no cooperative launches";
  if (plan.step.wgmma) return "IQL_FAST_CUDA_WGMMA=1 asks for products that only launches have";
  if (plan.shared_bytes <= limits.shared_of_block) return "";
  return "the weights of one seed do not stay on the device: each of " +
         std::to_string(plan.groups[0].dealt.blocks) + " blocks would take " +
         std::to_string(plan.shared_bytes) + " bytes of shared memory, and can have " +
         std::to_string(limits.shared_of_block);
}

int prepare_resident(const ResidentPlan& plan) {
  return with_precision(plan.step, [&](auto of) -> int {
    using Rows = typename decltype(of)::Type;
    const cudaError_t error = allow_shared(resident_kernel<Rows>, plan.shared_bytes);
    if (error != cudaSuccess) return error;
    int at_once = 0;  // on a multiprocessor
    const cudaError_t asked = cudaOccupancyMaxActiveBlocksPerMultiprocessor(
        &at_once, resident_kernel<Rows>, Rows::kRowsThreads, plan.shared_bytes);
    return asked != cudaSuccess || at_once > 0 ? asked : cudaErrorCooperativeLaunchTooLarge;
  });
}

int launch_resident(const Problem& p, const ResidentPlan& plan, const ResidentMemory& memory,
                    int steps, void* stream) {
  return with_precision(plan.step, [&](auto of) -> int {
    using Rows = typename decltype(of)::Type;
    ResidentMemory of_group = memory;
    for (const auto& [seeds, dealt] : plan.groups) {
      LaunchShape shape{dealt.blocks, Rows::kRowsThreads, plan.shared_bytes,
                        static_cast<cudaStream_t>(stream)};
      shape.cooperative = true;
      const BlockShape block{ResidentBlock<Rows>::work_floats(p), dealt.most, seeds};
      const cudaError_t error = launch(resident_kernel<Rows>, shape, p, of_group, block, steps);
      if (error != cudaSuccess) return error;
      of_group.duties += dealt.duties.size();
      ++of_group.arrived;
    }
    return cudaSuccess;
  });
}

}  // namespace iql::cuda
