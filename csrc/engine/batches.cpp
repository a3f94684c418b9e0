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
  const std::int64_t size = setup_.data.size();
  for (int r = begin; r < end; ++r) {
    w.rows[r] = batch_row(seed.key, step, r, size);
    const auto [columns, row] = setup_.data.at(seed.index, w.rows[r]);
    fetch(columns.observations + row * O, O);
    fetch(columns.actions + row * A, A);
    if (parts.next_observation) fetch(columns.next_observations + row * O, O);
    if (parts.reward_and_mask) {
      fetch(columns.rewards + row, 1);
      fetch(columns.masks + row, 1);
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
      const auto [columns, row] = setup_.data.at(index, w.rows[r]);
      take(columns, row, r);
    }
  }
}

template class Batches<float>;
template class Batches<double>;
template class Batches<float, BFloat16>;

}  // namespace iql::engine
