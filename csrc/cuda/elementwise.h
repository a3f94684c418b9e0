// The formulas of iql/ over device arrays. Each launches on `stream` (a cudaStream_t) and returns
// the launch's cudaError_t as an int: 0 is success. n = 0 launches nothing.
#pragma once

#include <cstdint>

namespace iql::cuda {

int launch_expectile(const float* q, const float* v, float* loss, float* d_u, std::int64_t n,
                     float tau, void* stream);
int launch_awr_weights(const float* advantage, float* weight, std::int64_t n, float beta,
                       float clip, void* stream);
int launch_polyak_(float* target, const float* source, std::int64_t n, float alpha, void* stream);

// What a code above means.
const char* error_name(int code);

}  // namespace iql::cuda
