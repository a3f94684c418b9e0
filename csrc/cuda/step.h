// One training step as launches. Nothing in them changes from step to step.
#pragma once

#include <cstddef>
#include <vector>

#include "cuda/layout.h"

namespace iql::cuda {

enum class Precision { kFp32, kBf16x3, kTf32 };

// What a device has.
struct Limits {
  int multiprocessors;
  std::size_t shared_of_block;  // memory, in bytes
  bool overlaps;                // launches can
  bool cooperates = false;      // blocks of a launch can
  bool wgmma = false;           // is there, and is to be used in bf16x3
};

// What is fixed when an engine is made.
struct StepPlan {
  Precision precision;
  // Rows that a block takes through a network, 16 or 32 (64 by wgmma), which changes no result: few
  // keep a device busy with few seeds, many read the weights less often.
  int train_rows, value_rows;
  int halves;     // of MmaRows
  bool overlaps;  // the launches
  bool wgmma = false;
};

// The plan that keeps a device busy. It may need more shared memory than there is.
StepPlan plan_step(const Problem& p, Precision precision, const Limits& limits);
// Shared memory that a block needs.
std::size_t shared_bytes(const Problem& p, const StepPlan& plan);

// All return a cudaError_t as an int: 0 is success.
// Whether this build has code for the current device.
int check_code();
// Whether it has code with wgmma for it.
bool has_wgmma();
// To be called once before the others.
int prepare(const Problem& p, const StepPlan& plan);
int launch_step(const Problem& p, const StepPlan& plan, void* stream);
// The launches that a step consists of, to be timed one by one.
std::vector<const char*> launch_names(const Problem& p);
int launch_part(const Problem& p, const StepPlan& plan, int part, void* stream);
// After the host wrote parameters.
int launch_refresh(const Problem& p, const StepPlan& plan, void* stream);

}  // namespace iql::cuda
