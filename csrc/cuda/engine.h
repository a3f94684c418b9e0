// The IQL training step on a CUDA device, for S seeds at once, in fp32.
//
// One step is four launches in the authors' update order, two where the losses read the old V:
//   1  rows:     gather the batch; all networks forward, the trained ones backward with factor 1
//                (cuda/losses.h says why that can be done before the losses are known)
//   2  weights:  V's gradients and Adam
//   3  rows:     the new V(s) and V(s')
//   4  weights:  the actor's and the critics' gradients, Adam, Polyak; metrics
// `run` replays a graph of many steps. A result depends neither on the graph nor on which seeds
// train together, and is the same every time. The other form of a step, cuda/resident.h, has the
// same results: many steps are one launch, and the weights stay on the device's chip, those of as
// many seeds at a time as there is room for. Where transitions are met between steps, cuda/ring.h
// says how they come to the device, and cuda/acting.h has the policy that meets them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "cuda/step.h"
#include "engine/config.h"

namespace iql::cuda {

// Why the device cannot run the kernels of this build; empty where it can.
std::string unavailable_reason(int device);
// Why the kernels cannot take these sizes there; empty where they can.
std::string size_reason(const engine::Config& config, Precision precision, int device);

// How a step is launched.
enum class StepForm { kLaunches, kResident };
// Why it cannot be resident there, for networks and seeds of these sizes; empty where it can.
std::string resident_reason(const engine::Config& config, Precision precision, int device);

class CudaEngine {
 public:
  // Copies the dataset to the device; what it points at is not needed afterwards. Throws
  // std::invalid_argument with the reason where the sizes are none that the kernels take in this
  // form, and std::runtime_error where CUDA fails.
  CudaEngine(engine::Config config, const engine::Dataset& data, Precision precision, int device,
             StepForm form = StepForm::kLaunches);
  ~CudaEngine();

  // As those of engine::CpuEngine. `meet` throws std::runtime_error where the device has not the
  // memory. Of what was met, only the newest may change after a run that it counted in, and all of
  // it before `refresh`.
  std::int64_t run(std::int64_t steps, const std::function<bool()>& interrupted);
  void step_on(const engine::GivenBatch<float>& batch);
  std::int64_t step() const;
  void set_step(std::int64_t step);
  int pieces(engine::NetworkId id) const;
  std::size_t piece_size(engine::NetworkId id, int piece) const;
  void read(int seed_index, int network, engine::ArrayId array, int piece, float* natural) const;
  void write(int seed_index, int network, engine::ArrayId array, int piece, const float* natural);
  void refresh();
  std::vector<engine::MetricSums> take_metrics(std::int64_t* steps);
  const std::optional<engine::Failure>& failure() const;
  void meet(const engine::Columns& met, std::int64_t slots, std::int64_t capacity);
  void set_met_rows(std::int64_t rows);
  void explore(const float* observations, const float* noise, float* actions);
  bool draws_next(std::int64_t place) const;

  // As `run`, but does not wait for the last steps. What came of them is known once something else
  // has waited: `explore`, `run` or `step_on`.
  std::int64_t advance(std::int64_t steps, const std::function<bool()>& interrupted);

  // Microseconds that each launch of a step takes when it is repeated by itself so many times,
  // under its name; of a resident step, which is none, what is and is not repeated in its launch.
  // The networks are then not to be used.
  std::vector<std::pair<std::string, double>> time_launches(int repeats);

  // Seeds that are trained at the same time; the others' steps come before or after theirs.
  int seeds_at_once() const;

  // The dataset did not fit into device memory: batches come from the host's, which is slower.
  bool dataset_on_host() const;

 private:
  struct Device;
  std::unique_ptr<Device> device_;
};

}  // namespace iql::cuda
