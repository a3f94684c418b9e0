// One training step as launches. Nothing in them changes from step to step.
#pragma once

#include <cstddef>
#include <vector>

#include "cuda/layout.h"

namespace iql::cuda {

enum class Precision { kFp32, kBf16x3 };

// What a device has.
struct Limits {
  int multiprocessors;
  std::size_t shared_of_block, shared_of_multiprocessor;  // memory, in bytes
  bool overlaps;                                          // launches can
};

// How a launch of the rows kernel works: rows that a block takes through a network, 16 or 32, and
// slots of the queue of its weights, 2, 4 or 8.
struct RowsPlan {
  int rows, queue_slots;
};

// What is fixed when an engine is made. Sizes change no result: small ones keep a device busy with
// few seeds, large ones read less.
struct StepPlan {
  Precision precision;
  RowsPlan train, value;
  int value_tile, others_tile;  // of weights that a block updates: 32 or 64 rows and columns
  bool overlaps;
};

// The plan that keeps a device busy. It may need more shared memory than there is.
StepPlan plan_step(const Problem& p, Precision precision, const Limits& limits);
// Shared memory that a block needs.
std::size_t shared_bytes(const Problem& p, const StepPlan& plan);

// All return a cudaError_t as an int: 0 is success.
// Whether this build has code for the current device.
int check_code();
// To be called once before the others.
int prepare(const Problem& p, const StepPlan& plan);
int launch_step(const Problem& p, const StepPlan& plan, void* stream);
// The launches that a step consists of, to be timed one by one.
std::vector<const char*> launch_names(const Problem& p);
int launch_part(const Problem& p, const StepPlan& plan, int part, void* stream);
// After the host wrote parameters.
int launch_refresh(const Problem& p, const StepPlan& plan, void* stream);

}  // namespace iql::cuda
