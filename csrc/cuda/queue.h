// The weights of a block's products on their way into shared memory, while others are multiplied.
#pragma once

#include "cuda/intrinsics.h"

namespace iql::cuda {

constexpr int kThreads = 256;  // of a block of the kernels here

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
// One slot more than is on the way: a copy never goes where something was read just before.
template <class Precision, class Products>
class WeightQueue {
 public:
  static constexpr int kPieces = 4;
  static std::size_t bytes(int slots) { return slots * sizeof(float4) * kPieces * kThreads; }

  // `slots` is 2, 4 or 8.
  __device__ WeightQueue(float* memory, int slots, const Products& products)
      : ring_(reinterpret_cast<float4*>(memory) + threadIdx.x), slots_(slots), products_(products) {
    if (products_.count > 0) begin(products_[0], 0);
    for (int i = 0; i < slots_ - 1; ++i) fetch();
  }

  // The next step's weights.
  __device__ void take(float4 (&now)[kPieces]) {
    if (slots_ == 8) {
      wait_for_copies<6>();
    } else if (slots_ == 4) {
      wait_for_copies<2>();
    } else {
      wait_for_copies<0>();
    }
    const float4* from = slot(taken_++);
#pragma unroll
    for (int i = 0; i < kPieces; ++i) now[i] = from[i * kThreads];
    fetch();
  }

 private:
  __device__ float4* slot(int step) const {
    return ring_ + (step & (slots_ - 1)) * kPieces * kThreads;
  }
  __device__ void begin(const Weights& weights, int first_column) {
    first_column_ = first_column;
    outputs_ = weights.outputs;
    share_ = Precision::share(weights, first_column);
  }
  // Even when there is nothing left to fetch, so that the copies to wait for can be counted.
  __device__ void fetch() {
    if (product_ < products_.count) {
      float4* to = slot(fetched_);
#pragma unroll
      for (int i = 0; i < kPieces; ++i) {
        if (i < share_.pieces) copy_16_bytes(to + i * kThreads, share_.at + i * share_.piece_stride);
      }
      share_.at += share_.step_stride;
      if (--share_.steps == 0) advance();
    }
    ++fetched_;
    end_of_copies();
  }
  __device__ void advance() {
    if (first_column_ + kThreads < outputs_) {
      begin(products_[product_], first_column_ + kThreads);
    } else if (++product_ < products_.count) {
      begin(products_[product_], 0);
    }
  }

  float4* ring_;
  int slots_;
  Products products_;
  int product_ = 0, first_column_ = 0, outputs_ = 0;
  WeightShare share_{};
  int fetched_ = 0, taken_ = 0;
};

}  // namespace iql::cuda
