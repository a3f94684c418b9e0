// What C++ has no words for: shared memory, warp sums, bf16, tf32 and the tensor cores'
// products.
// Elsewhere a kernel's source is plain C++, which the tests' emulator compiles as it stands.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace iql::cuda {

// The block's dynamic shared memory.
__device__ __forceinline__ float* shared_floats() {
#ifdef __CUDACC__
  extern __shared__ float4 memory[];
  return reinterpret_cast<float*>(memory);
#else
  return reinterpret_cast<float*>(emulator::shared_memory());
#endif
}

// Brings a kernel's parameter into the constant cache, the warps a line each, where it would else
// come line by line as each is first used, with everything waiting.
template <class Parameter>
__device__ __forceinline__ void touch_parameter([[maybe_unused]] const Parameter& parameter) {
#ifdef __CUDACC__
  constexpr unsigned kLine = 64, kLines = (sizeof parameter + kLine - 1) / kLine;
  for (unsigned line = threadIdx.x / 32; line < kLines; line += blockDim.x / 32) {
    const char* at = reinterpret_cast<const char*>(&parameter) + line * kLine;
    asm volatile("" ::"r"(*reinterpret_cast<const int*>(at)));
  }
#endif
}

// Launches that overlap: a kernel may come up while the one before it in its stream still works, so
// that what a launch costs beside its work passes meanwhile. It waits before it reads or writes
// anything in device memory. (PTX: griddepcontrol, from sm_90.)
__device__ __forceinline__ void wait_for_previous_launch() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// Lets the next one come up, once all blocks have said so or ended. Not early: blocks that come up
// while others work crowd on the multiprocessors that have room.
__device__ __forceinline__ void let_next_launch_come_up() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// __syncthreads of some of the block's threads, which have a barrier of their own: 1 to 15.
__device__ __forceinline__ void sync_threads(unsigned barrier, unsigned threads) {
#ifdef __CUDACC__
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
#else
  emulator::wait_for_threads(barrier, threads);
#endif
}

// Adds one to a counter in device memory. Whoever sees it there sees what this thread wrote before,
// and what others wrote that this thread has waited for at a barrier: the release is cumulative.
__device__ __forceinline__ void arrive(unsigned* counter) {
#ifdef __CUDACC__
  asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(counter) : "memory");
#else
  emulator::arrive(counter);
#endif
}
// Waits for the counter to come as far, and sees what that is about: the acquire drops what the
// multiprocessor's L1 cache holds. What does not come within so many polls, some seconds, never
// will: the launch then fails.
__device__ __forceinline__ void wait_for_arrivals(const unsigned* counter, unsigned wanted) {
#ifdef __CUDACC__
  constexpr unsigned kMostPolls = 1u << 26;
  for (unsigned polls = 0;; ++polls) {
    unsigned count;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(count) : "l"(counter) : "memory");
    if (count >= wanted) return;
    if (polls == kMostPolls) __trap();
  }
#else
  emulator::wait_for_arrivals(counter, wanted);
#endif
}

// Copies from global to shared memory that pass by the thread's registers. A thread may read what
// it copied once it has waited; others, after a barrier from there on.
__device__ __forceinline__ void copy_16_bytes(void* shared, const void* global) {
#ifdef __CUDACC__
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(
                   static_cast<std::uint32_t>(__cvta_generic_to_shared(shared))),
               "l"(global)
               : "memory");
#else
  emulator::copy_later(shared, global, 16);
#endif
}
// Ends a group of copies.
__device__ __forceinline__ void end_of_copies() {
#ifdef __CUDACC__
  asm volatile("cp.async.commit_group;" ::: "memory");
#else
  emulator::end_of_copies();
#endif
}
// For all groups of this thread's copies but the last few.
template <int kGroups>
__device__ __forceinline__ void wait_for_copies() {
#ifdef __CUDACC__
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
#else
  emulator::wait_for_copies(kGroups);
#endif
}

// Of the lanes' values, in an order that is always the same; every lane has the sum.
template <class T>
__device__ __forceinline__ T warp_sum(T value) {
  for (int lanes = 16; lanes > 0; lanes /= 2) value += __shfl_xor_sync(~0u, value, lanes);
  return value;
}

// Two bf16 in one register, `low` in the lower half, rounded to nearest even.
__device__ __forceinline__ std::uint32_t pack_bf16(float low, float high) {
#ifdef __CUDACC__
  std::uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
#else
  const auto rounded = [](float value) {
    const std::uint32_t bits = __float_as_uint(value);
    if (value != value) return 0x7FFFu;
    return (bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16;
  };
  return rounded(low) | rounded(high) << 16;
#endif
}

__device__ __forceinline__ float low_bf16(std::uint32_t packed) {
  return __uint_as_float(packed << 16);
}
__device__ __forceinline__ float high_bf16(std::uint32_t packed) {
  return __uint_as_float(packed & 0xFFFF0000u);
}

// A pair of floats as hi + lo, each a pair of bf16: together 16 bits of mantissa.
struct SplitPair {
  std::uint32_t hi, lo;
};
__device__ __forceinline__ SplitPair split_bf16(float first, float second) {
  const std::uint32_t hi = pack_bf16(first, second);
  return {hi, pack_bf16(first - low_bf16(hi), second - high_bf16(hi))};
}

// d += A B for a warp: A [16, 16] and B [16, 8] in bf16, d [16, 8] in fp32. With g = lane / 4 and
// t = lane % 4 a lane holds
//   a: A[g][2t, 2t + 1], A[g + 8][2t, 2t + 1], A[g][2t + 8, 2t + 9], A[g + 8][2t + 8, 2t + 9]
//   b: B[2t, 2t + 1][g], B[2t + 8, 2t + 9][g]
//   d: D[g][2t, 2t + 1], D[g + 8][2t, 2t + 1]
__device__ __forceinline__ void mma_bf16(float (&d)[4], const std::uint32_t (&a)[4],
                                         const std::uint32_t (&b)[2]) {
#ifdef __CUDACC__
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  emulator::mma_m16n8k16_bf16(d, a, b);
#endif
}

// A float rounded to tf32, which is one with 10 bits of mantissa: to nearest, ties away from zero.
__device__ __forceinline__ std::uint32_t round_tf32(float value) {
#ifdef __CUDACC__
  std::uint32_t rounded;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(value));
  return rounded;
#else
  return emulator::round_tf32(value);
#endif
}

// d += A B for a warp: A [16, 8] and B [8, 8] in tf32, d [16, 8] in fp32. With g = lane / 4 and
// t = lane % 4 a lane holds
//   a: A[g][t], A[g + 8][t], A[g][t + 4], A[g + 8][t + 4]
//   b: B[t][g], B[t + 4][g]
//   d: as of mma_bf16
__device__ __forceinline__ void mma_tf32(float (&d)[4], const std::uint32_t (&a)[4],
                                         const std::uint32_t (&b)[2]) {
#ifdef __CUDACC__
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  emulator::mma_m16n8k8_tf32(d, a, b);
#endif
}

}  // namespace iql::cuda
