// What the seeds meet while they are trained, on its way to the device and there.
//
// The caller writes transitions into columns of its own, and each time before steps are launched
// says how many count. Those of them that the device has not yet are packed in pinned memory and
// copied from there in the stream's order: one copy of what all seeds have met in one step of their
// environments, and one of the `Source` that has kernels draw from them. Nobody waits for that, but
// who would pack into memory whose last copy still goes on.
//
// The newest transition that counts may not have been written yet: the simulators may be computing
// it while the device takes a step whose batch has it not (iql_fast/runs/finetuning.py). So it
// comes with that step as it stands, in case it is drawn and hence written, and once more with the
// next one, by when it is not the newest and must have been.
#pragma once

#include <cstdint>

#include "cuda/layout.h"
#include "cuda/memory.h"

namespace iql::cuda {

class Ring {
 public:
  // For what `data` says is met, whose columns stay where they are. Throws std::runtime_error
  // where the device has not the memory.
  Ring(const Problem& problem, const engine::Dataset& data);

  // On the device, as Source::met.
  const float* met() const { return as<float>(records_); }

  // Has the first `met_rows` transitions of each seed, as far as they are not displaced, and then
  // `source` come to the device before what the stream does next.
  void bring(std::int64_t met_rows, const Source& source, Source* to, cudaStream_t stream);
  // What has come is no longer what the columns hold.
  void forget() { settled_ = 0; }

 private:
  // Pinned memory: a Source, then records.
  struct Stage {
    HostMemory memory;
    Event copied;
    Source* source() const { return as<Source>(memory); }
    float* records() const { return reinterpret_cast<float*>(source() + 1); }
  };

  void pack(std::int64_t slot, std::int64_t count, float* to) const;

  int seeds_, obs_dim_, act_dim_;
  std::int64_t line_;  // floats of all seeds' records in one slot
  engine::Columns met_;
  std::int64_t slots_, capacity_, staged_;  // slots that a stage takes
  DeviceMemory records_;                    // [slots][S][record]
  Stage stages_[2];
  int turn_ = 0;
  std::int64_t settled_ = 0;  // transitions that have come and need not come again
};

}  // namespace iql::cuda
