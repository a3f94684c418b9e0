#include "engine/batches.h"

#include <cstddef>

#include "iql/philox.h"

namespace iql::engine {

template <class T, class Operand>
void Batches<T, Operand>::draw_rows(const Seed<T, Operand>& seed, std::int64_t step, Parts parts,
                                    Workspace<T, Operand>& w, int begin, int end) const {
  const int O = setup_.config.obs_dim, A = setup_.config.act_dim;
  const auto fetch = [](const float* from, int count) {
    for (int i = 0; i < count; i += 16) __builtin_prefetch(from + i);
    __builtin_prefetch(from + count - 1);
  };
  for (int r = begin; r < end; ++r) {
    const std::int64_t from = batch_row(seed.key, step, r, setup_.data.rows);
    w.rows[r] = from;
    fetch(setup_.data.observations + from * O, O);
    fetch(setup_.data.actions + from * A, A);
    if (parts.next_observation) fetch(setup_.data.next_observations + from * O, O);
    if (parts.reward_and_mask) {
      fetch(setup_.data.rewards + from, 1);
      fetch(setup_.data.masks + from, 1);
    }
  }
}

template <class T, class Operand>
void Batches<T, Operand>::gather(int index, const GivenBatch<T>* given, Parts parts,
                                 Workspace<T, Operand>& w, int begin, int end) const {
  const int O = setup_.config.obs_dim, A = setup_.config.act_dim, P = setup_.kernels.panel;
  const std::int64_t B = setup_.config.batch_size;
  const auto copy = [&](const auto* from, int count, Buffer<T>& matrix, int row, int column) {
    T* panel_row = matrix.data() + (std::size_t(column / P) * B + row) * P;
    for (int i = 0, c = column % P; i < count; ++i) {
      panel_row[c] = static_cast<T>(from[i]);
      if (++c == P) {
        c = 0;
        panel_row += B * P;
      }
    }
  };
  const auto take = [&](const auto& source, std::int64_t from, int row) {
    copy(source.observations + from * O, O, w.input, row, 0);
    copy(source.actions + from * A, A, w.input, row, O);
    if (parts.next_observation) {
      copy(source.next_observations + from * O, O, w.next_input, row, 0);
    }
    if (parts.reward_and_mask) {
      w.reward[row] = static_cast<T>(source.rewards[from]);
      w.mask[row] = static_cast<T>(source.masks[from]);
    }
  };
  for (int r = begin; r < end; ++r) {
    if (given != nullptr) {
      take(*given, index * B + r, r);
    } else {
      take(setup_.data, w.rows[r], r);
    }
  }
}

template class Batches<float>;
template class Batches<double>;
template class Batches<float, BFloat16>;

}  // namespace iql::engine
