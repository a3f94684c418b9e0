// What a warpgroup, which is four warps, multiplies on sm_90a: A [64, 16], whose fragments lie in
// registers as those of mma_bf16, by B [16, N], which lies in shared memory. It happens
// asynchronously: between wgmma_begin() and wait_for_wgmma() nothing may touch the fragments, the
// sums or B.
#pragma once

#include "cuda/intrinsics.h"

namespace iql::cuda {

// Whether the architecture that is compiled for has it. (The host's pass, and the emulator, may
// name what needs it.)
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
constexpr bool kHasWgmma = true;
#else
constexpr bool kHasWgmma = false;
#endif

// Where B lies: core matrices of 8 columns by 8 inputs, a column 16 bytes, without swizzle. The
// distance of one from its neighbour along the inputs, and along the columns, in bytes.
__device__ __forceinline__ std::uint64_t core_matrices(const void* at, std::uint32_t along_inputs,
                                                       std::uint32_t along_columns) {
#ifdef __CUDACC__
  const std::uint32_t address = static_cast<std::uint32_t>(__cvta_generic_to_shared(at));
#else
  const std::uint32_t address = emulator::shared_address(at);
#endif
  const auto field = [](std::uint32_t bytes) { return std::uint64_t(bytes >> 4 & 0x3FFFu); };
  return field(address) | field(along_inputs) << 16 | field(along_columns) << 32;
}

// Makes what this thread wrote into shared memory, copies that it waited for included, known to
// what reads there asynchronously; a barrier then makes it known for others.
__device__ __forceinline__ void show_to_wgmma() {
#ifndef __CUDACC__
  emulator::fence_proxy_async();
#elif defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}
// What the threads did to registers comes before what follows.
__device__ __forceinline__ void wgmma_begin() {
#ifndef __CUDACC__
  emulator::wgmma_fence();
#elif defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}
__device__ __forceinline__ void wgmma_end() {
#ifndef __CUDACC__
  emulator::wgmma_commit();
#elif defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}
__device__ __forceinline__ void wait_for_wgmma() {
#ifndef __CUDACC__
  emulator::wgmma_wait(0);
#elif defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#endif
}

// d += A B, B [16, 128] in bf16. Warp w of the warpgroup has rows 16 w to 16 w + 15 of A and of d,
// and d[i] is as mma_bf16's of columns 8 i to 8 i + 7.
__device__ __forceinline__ void wgmma_bf16([[maybe_unused]] float (&d)[16][4],
                                           [[maybe_unused]] const std::uint32_t (&a)[4],
                                           [[maybe_unused]] std::uint64_t b) {
#ifndef __CUDACC__
  emulator::wgmma_m64n128k16_bf16(&d[0][0], a, b);
#elif defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define IQL_FOUR(i) "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
      "{%64, %65, %66, %67}, %68, 1, 1, 1, 0;"
      : IQL_FOUR(0), IQL_FOUR(1), IQL_FOUR(2), IQL_FOUR(3), IQL_FOUR(4), IQL_FOUR(5), IQL_FOUR(6),
        IQL_FOUR(7), IQL_FOUR(8), IQL_FOUR(9), IQL_FOUR(10), IQL_FOUR(11), IQL_FOUR(12),
        IQL_FOUR(13), IQL_FOUR(14), IQL_FOUR(15)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
#undef IQL_FOUR
#endif
}

}  // namespace iql::cuda
