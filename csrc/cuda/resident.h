// Many training steps as one launch that stays on the device: the other form of cuda/step.h, with
// the same results bit for bit.
//
// Every block keeps some tiles of the networks' weights, with their moments and targets, in its
// shared memory, from the first step of a launch to the last. Blocks do the parts of a step
// together: they take rows through networks, each a share of them, and update the tiles that they
// keep. In between they wait for each other. Activations, gradients and the operands of the next
// products pass from one to another through the L2 cache; moments, and what else only the update
// needs, do not move.
//
// Seeds need nothing of each other. Where the tiles of all do not fit, groups of them have the chip
// in turn: a launch does all of a group's steps, and the next launch those of the next group, which
// begins at the same step. So the more steps a launch does, the less it matters that weights come
// to the chip and go back.
#pragma once

#include <string>
#include <vector>

#include "cuda/deal.h"
#include "cuda/step.h"

namespace iql::cuda {

// What is fixed when an engine is made.
struct ResidentGroup {
  SeedRange seeds;
  Dealt dealt;
};
struct ResidentPlan {
  StepPlan step;
  std::vector<ResidentGroup> groups;  // as few as there can be, and all but equal
  std::size_t shared_bytes;           // of a block, in the group that needs the most
};

// Where not even one seed fits, it needs more shared memory than there is.
ResidentPlan plan_resident(const Problem& p, const StepPlan& step, const Limits& limits);
// Why the current device cannot run it; empty where it can.
std::string resident_reason(const ResidentPlan& plan, const Limits& limits);
// Seeds of the largest group.
int seeds_at_once_of(const ResidentPlan& plan);

// What the launches need in device memory.
struct ResidentMemory {
  const Duty* duties;  // those of the plan's groups, one group's after another's
  unsigned* arrived;   // [groups], 0 before each launch
};

// At most so many steps a launch, so that blocks can be counted at every barrier.
constexpr int kMostResidentSteps = 1 << 20;

// Both return a cudaError_t as an int: 0 is success. The first is to be called once before; the
// second launches each group's steps.
int prepare_resident(const ResidentPlan& plan);
int launch_resident(const Problem& p, const ResidentPlan& plan, const ResidentMemory& memory,
                    int steps, void* stream);

}  // namespace iql::cuda
