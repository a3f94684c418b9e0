// The formulas of this folder are compiled for the CPU and for CUDA from one source.
#pragma once

// Always inlined on the host: the CPU loops are compiled for several instruction sets, and a shared
// out-of-line copy could be the one for a machine that this is not.
#if defined(__CUDACC__)
#define IQL_HD __host__ __device__
#else
#define IQL_HD __attribute__((always_inline))
#endif
