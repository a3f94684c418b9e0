// The weights of a block's products on their way into shared memory, while others are multiplied.
#pragma once

#include "cuda/intrinsics.h"

namespace iql::cuda {

constexpr int kRowsThreads = 512;  // of a block that takes rows through a network
constexpr int kPass = 256;         // columns of a product that such a block makes at a time

// A product's weights, as Fp32 or Bf16x3 lays them out: [inputs][outputs].
struct Weights {
  const float* at;
  int inputs, outputs;  // padded
};

// What one thread takes of a product's weights, for some columns of the result: in each of the
// steps up to four pieces of 16 bytes.
struct WeightShare {
  const float* at;
  int pieces, piece_stride;  // the stride in floats
  int steps, step_stride;
};

// Every thread has a queue of its own: no other one reads what it fetches, so that nobody waits for
// anybody. `Products` gives the products' weights in their order, and their number.
//
// A step is on its way while the one before it is multiplied.
template <class Precision, class Products>
class WeightQueue {
 public:
  static constexpr int kSlots = 2, kPieces = 4;
  static constexpr std::size_t kBytes = sizeof(float4) * kSlots * kPieces * kRowsThreads;

  __device__ WeightQueue(float* memory, const Products& products)
      : ring_(reinterpret_cast<float4*>(memory) + threadIdx.x), products_(products) {
    if (products_.count > 0) begin(0);
    for (int i = 0; i < kSlots - 1; ++i) fetch();
  }

  // The next step's weights.
  __device__ void take(float4 (&now)[kPieces]) {
    wait_for_copies<kSlots - 2>();
    const float4* from = slot(taken_);
#pragma unroll
    for (int i = 0; i < kPieces; ++i) now[i] = from[i * kRowsThreads];
    fetch();
  }
  // For copies that this thread began before it made the queue.
  __device__ void wait_for_others() const { wait_for_copies<kSlots - 1>(); }

 private:
  // The place of a step, which then counts as gone.
  __device__ float4* slot(int& step) const {
    float4* at = ring_ + step * kPieces * kRowsThreads;
    step = step + 1 == kSlots ? 0 : step + 1;
    return at;
  }
  // From a product on, the first one of which this thread takes anything.
  __device__ void begin(int first_column) {
    for (;;) {
      const Weights weights = products_[product_];
      share_ = Precision::share(weights, first_column);
      next_column_ = first_column + kPass < weights.outputs ? first_column + kPass : 0;
      if (share_.steps > 0) return;
      first_column = next_column_;
      if (next_column_ == 0 && ++product_ >= products_.count) return;
    }
  }
  // Even when there is nothing left to fetch, so that the copies to wait for can be counted.
  __device__ void fetch() {
    if (product_ < products_.count) {
      float4* to = slot(fetched_);
#pragma unroll
      for (int i = 0; i < kPieces; ++i) {
        if (i < share_.pieces) {
          copy_16_bytes(to + i * kRowsThreads, share_.at + i * share_.piece_stride);
        }
      }
      share_.at += share_.step_stride;
      if (--share_.steps == 0 && (next_column_ > 0 || ++product_ < products_.count)) {
        begin(next_column_);
      }
    }
    end_of_copies();
  }

  float4* ring_;
  Products products_;
  int product_ = 0, next_column_ = 0;
  WeightShare share_;
  int fetched_ = 0, taken_ = 0;  // slots
};

}  // namespace iql::cuda
