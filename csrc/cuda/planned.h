// How an engine's steps run on a device, from the sizes that it is made with. Each of these throws
// std::invalid_argument where the device cannot.
#pragma once

#include <utility>

#include "cuda/resident.h"
#include "cuda/step.h"
#include "engine/config.h"

namespace iql::cuda {

Limits limits_of(int device, Precision precision);
std::pair<Problem, StepPlan> planned(const engine::Config& config, Precision precision,
                                     const Limits& limits);
ResidentPlan planned_resident(const Problem& problem, const StepPlan& step, const Limits& limits);

}  // namespace iql::cuda
