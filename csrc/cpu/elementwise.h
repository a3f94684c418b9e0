// The formulas of iql/ over arrays, for the ops that others call from torch.
#pragma once

#include <cstdint>

namespace iql::cpu {

// loss[i] = expectile(q[i] - v[i]), d_u[i] its derivative by u = q - v.
template <class T>
void expectile(const T* q, const T* v, T* loss, T* d_u, std::int64_t n, T tau);

// weight[i] = min(exp(beta * advantage[i]), clip)
template <class T>
void awr_weights(const T* advantage, T* weight, std::int64_t n, T beta, T clip);

// target[i] += alpha * (source[i] - target[i])
template <class T>
void polyak_(T* target, const T* source, std::int64_t n, T alpha);

}  // namespace iql::cpu
