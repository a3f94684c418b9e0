#include "cpu/elementwise.h"

#include "iql/awr.h"
#include "iql/expectile.h"
#include "iql/polyak.h"

namespace iql::cpu {

template <class T>
void expectile(const T* q, const T* v, T* loss, T* d_u, std::int64_t n, T tau) {
  for (std::int64_t i = 0; i < n; ++i) {
    const Expectile<T> e = iql::expectile(q[i] - v[i], tau);
    loss[i] = e.loss;
    d_u[i] = e.d_u;
  }
}

template <class T>
void awr_weights(const T* advantage, T* weight, std::int64_t n, T beta, T clip) {
  for (std::int64_t i = 0; i < n; ++i) weight[i] = awr_weight(advantage[i], beta, clip);
}

template <class T>
void polyak_(T* target, const T* source, std::int64_t n, T alpha) {
  for (std::int64_t i = 0; i < n; ++i) target[i] = polyak(target[i], source[i], alpha);
}

#define IQL_INSTANTIATE(T)                                                 \
  template void expectile<T>(const T*, const T*, T*, T*, std::int64_t, T); \
  template void awr_weights<T>(const T*, T*, std::int64_t, T, T);          \
  template void polyak_<T>(T*, const T*, std::int64_t, T);
IQL_INSTANTIATE(float)
IQL_INSTANTIATE(double)
#undef IQL_INSTANTIATE

}  // namespace iql::cpu
