// The weights of a block's products on their way into shared memory, while others are multiplied.
#pragma once

#include "cuda/intrinsics.h"
#include "cuda/wgmma.h"

namespace iql::cuda {

// Columns of a product that a block makes at a time.
constexpr int kPass = 256;

// A product's weights, as a precision lays them out: [inputs][outputs].
struct Weights {
  const float* at;
  int inputs, outputs;  // padded
};

// What one thread takes of a product's weights, for some columns of the result: in each of the
// steps up to four pieces of 16 bytes. Precision::piece(share, i) is where a step's i-th piece lies
// after its first one, in floats, and Precision::step(share) where the next step begins.
struct WeightShare {
  const float* at;
  int pieces, steps, stride;
};

// Every thread has a queue of its own: no other one reads what it fetches, so that nobody waits for
// anybody. `Products` gives the products' weights in their order, and their number.
//
// A step is on its way while the one before it is multiplied.
template <class Precision, class Products>
class WeightQueue {
 public:
  static constexpr int kPieces = 4, kThreads = Precision::kRowsThreads;
  static constexpr std::size_t kBytes = sizeof(float4) * 2 * kPieces * kThreads;

  __device__ WeightQueue(float* memory, const Products& products)
      : ring_(reinterpret_cast<float4*>(memory) + threadIdx.x), products_(products) {
    begin(0);
    fetch(0);
  }

  // The next step's weights.
  __device__ void take(float4 (&now)[kPieces]) {
    wait_for_copies<0>();
    const float4* from = ring_ + turn_ * kPieces * kThreads;
#pragma unroll
    for (int i = 0; i < kPieces; ++i) now[i] = from[i * kThreads];
    turn_ ^= 1;
    fetch(turn_);
  }
  // The same where the block's threads share them out and read all of them, asynchronously.
  // Whatever read those before has ended.
  __device__ const float4* take_shared() {
    wait_for_copies<0>();
    show_to_wgmma();
    __syncthreads();
    const float4* from = ring_ - threadIdx.x + turn_ * kPieces * kThreads;
    turn_ ^= 1;
    fetch(turn_);
    return from;
  }
  // For copies that this thread began before it made the queue.
  __device__ void wait_for_others() const { wait_for_copies<1>(); }

 private:
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
  __device__ void fetch(int slot) {
    if (product_ < products_.count) {
      float4* to = ring_ + slot * kPieces * kThreads;
#pragma unroll
      for (int i = 0; i < kPieces; ++i) {
        if (i < share_.pieces) {
          copy_16_bytes(to + i * kThreads, share_.at + Precision::piece(share_, i));
        }
      }
      share_.at += Precision::step(share_);
      if (--share_.steps == 0 && (next_column_ > 0 || ++product_ < products_.count)) {
        begin(next_column_);
      }
    }
    end_of_copies();
  }

  float4* ring_;
  const Products& products_;
  int product_ = 0, next_column_ = 0;
  WeightShare share_{};
  int turn_ = 0;  // the slot to be taken next
};

}  // namespace iql::cuda
