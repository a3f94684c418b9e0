// What a step draws, as torch operators: a batch from columns of transitions, and dropout.
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>

#include <cstring>

#include "iql/philox.h"
#include "torch/op_support.h"

namespace iql::ops {
namespace {

// Rows of a dataset lie anywhere in memory: so many are on their way while others are copied.
constexpr std::int64_t kRowsAhead = 32;

void check_state(const Tensor& state, std::int64_t n, std::int64_t rows) {
  TORCH_CHECK(state.scalar_type() == at::kLong && state.dim() == 1 && state.sym_size(0) == 2,
              "batch_rows_: the state must be an int64 tensor [seed, step]");
  TORCH_CHECK(n >= 0, "batch_rows_: cannot draw ", n, " rows");
  TORCH_CHECK(rows > 0 && rows < (std::int64_t{1} << 32), "batch_rows_: cannot draw from ", rows,
              " rows");
}

Tensor batch_rows_cpu(const Tensor& state, std::int64_t n, std::int64_t rows) {
  check_state(state, n, rows);
  TORCH_CHECK(state.is_contiguous(), "batch_rows_: the state must be contiguous");
  Tensor drawn = at::empty({n}, state.options());
  std::int64_t* out = written<std::int64_t>(drawn);
  std::int64_t* seed_and_step = written<std::int64_t>(state);
  const auto seed = static_cast<std::uint64_t>(seed_and_step[0]);
  const auto step = static_cast<std::uint64_t>(seed_and_step[1]);
  share_out(n, kGrain, [&](cpu::Range range) {
    for (std::int64_t i = range.begin; i < range.end; ++i) {
      out[i] = batch_row(seed, step, static_cast<std::uint32_t>(i), rows);
    }
  });
  seed_and_step[1] += 1;
  return drawn;
}

#ifdef IQL_WITH_CUDA

Tensor batch_rows_cuda(const Tensor& state, std::int64_t n, std::int64_t rows) {
  check_state(state, n, rows);
  TORCH_CHECK(state.is_contiguous(), "batch_rows_: the state must be contiguous");
  const c10::DeviceGuard guard(state.device());
  Tensor drawn = at::empty({n}, state.options());
  check_launch(cuda::launch_batch_rows(written<std::int64_t>(state), written<std::int64_t>(drawn),
                                       n, rows, current_stream(state)),
               "batch_rows_");
  return drawn;
}

#endif  // IQL_WITH_CUDA

Tensor batch_rows_meta(const Tensor& state, std::int64_t n, std::int64_t rows) {
  check_state(state, n, rows);
  return at::empty({n}, state.options());
}

// The state is no part of a graph, but its versions count.
Tensor batch_rows_autograd(const Tensor& state, std::int64_t n, std::int64_t rows) {
  static const auto op =
      operator_handle<Tensor(const Tensor&, std::int64_t, std::int64_t)>("iql_fast::batch_rows_");
  Tensor drawn;
  {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    drawn = op.call(state, n, rows);
  }
  state.unsafeGetTensorImpl()->bump_version();
  return drawn;
}

std::vector<Tensor> empty_batch(TensorList columns, const Tensor& rows) {
  TORCH_CHECK(!columns.empty(), "gather_rows: there is no column");
  TORCH_CHECK(rows.scalar_type() == at::kLong && rows.dim() == 1,
              "gather_rows: rows must be an int64 tensor of one dimension");
  std::vector<Tensor> batch;
  for (const Tensor& column : columns) {
    TORCH_CHECK(column.dim() > 0 && column.sym_size(0) == columns[0].sym_size(0),
                "gather_rows: the columns must have equally many rows");
    TORCH_CHECK(column.device() == rows.device(),
                "gather_rows: the columns and the rows must be on the same device");
    c10::SymDimVector sizes(column.sym_sizes().begin(), column.sym_sizes().end());
    sizes[0] = rows.sym_size(0);
    batch.push_back(at::empty_symint(sizes, column.options()));
  }
  return batch;
}

std::vector<Tensor> gather_rows_cpu(TensorList columns, const Tensor& rows) {
  std::vector<Tensor> batch = empty_batch(columns, rows);
  const Tensor places = rows.contiguous();
  const std::int64_t* row = read<std::int64_t>(places);
  const std::int64_t n = rows.numel(), limit = columns[0].size(0);
  for (std::int64_t i = 0; i < n; ++i) {
    TORCH_CHECK_INDEX(row[i] >= 0 && row[i] < limit, "gather_rows: row ", row[i],
                      " of a column with ", limit);
  }
  for (std::size_t c = 0; c < columns.size(); ++c) {
    const Tensor column = columns[c].contiguous();
    const std::size_t bytes =
        column.itemsize() * static_cast<std::size_t>(limit > 0 ? column.numel() / limit : 0);
    const char* from = static_cast<const char*>(column.const_data_ptr());
    char* to = static_cast<char*>(batch[c].mutable_data_ptr());
    const std::int64_t bytes_each = std::max<std::int64_t>(1, static_cast<std::int64_t>(bytes));
    share_out(n, std::max<std::int64_t>(1, 4 * kGrain / bytes_each), [&](cpu::Range range) {
      for (std::int64_t i = range.begin; i < range.end; ++i) {
        if (bytes > 0 && i + kRowsAhead < range.end) {
          const char* ahead = from + row[i + kRowsAhead] * bytes;
          __builtin_prefetch(ahead);
          __builtin_prefetch(ahead + bytes - 1);
        }
        std::memcpy(to + i * bytes, from + row[i] * bytes, bytes);
      }
    });
  }
  return batch;
}

#ifdef IQL_WITH_CUDA

// Rows out of range fail an assertion on the device, as in torch's own indexing.
std::vector<Tensor> gather_rows_cuda(TensorList columns, const Tensor& rows) {
  std::vector<Tensor> batch = empty_batch(columns, rows);
  const c10::DeviceGuard guard(rows.device());
  const Tensor places = rows.contiguous();
  const std::int64_t n = rows.numel(), limit = columns[0].size(0);
  std::vector<Tensor> dense;  // alive until the launch
  for (std::size_t first = 0; first < columns.size(); first += cuda::kMaxColumns) {
    cuda::Columns list{};
    for (std::size_t c = first; c < columns.size() && list.count < cuda::kMaxColumns; ++c) {
      dense.push_back(columns[c].contiguous());
      list.from[list.count] = static_cast<const char*>(dense.back().const_data_ptr());
      list.to[list.count] = static_cast<char*>(batch[c].mutable_data_ptr());
      list.bytes[list.count++] =
          limit > 0 ? columns[c].numel() / limit * std::int64_t(columns[c].itemsize()) : 0;
    }
    check_launch(
        cuda::launch_gather(list, read<std::int64_t>(places), n, limit, current_stream(rows)),
        "gather_rows");
  }
  return batch;
}

#endif  // IQL_WITH_CUDA

Tensor empty_factors(const Tensor& like, const Tensor& seeds, std::int64_t, std::int64_t layer,
                     double probability) {
  check_type(like, "dropout_factors");
  TORCH_CHECK(
      seeds.scalar_type() == at::kLong && seeds.dim() == 1 && like.dim() == 3 &&
          like.sym_size(0) == seeds.sym_size(0),
      "dropout_factors: `like` must have three dimensions and seeds be an int64 tensor, one a "
      "leading index of it");
  TORCH_CHECK(seeds.device() == like.device(), "dropout_factors: the seeds are on ", seeds.device(),
              " and the elements on ", like.device());
  TORCH_CHECK(layer >= 0, "dropout_factors: layer ", layer);
  TORCH_CHECK(probability >= 0 && probability < 1, "dropout_factors: the probability is ",
              probability, "; it must be at least 0 and below 1");
  return dense_like(like);
}

// A constant, whatever it is like.
Tensor dropout_factors_autograd(const Tensor& like, const Tensor& seeds, std::int64_t step,
                                std::int64_t layer, double probability) {
  static const auto op =
      operator_handle<Tensor(const Tensor&, const Tensor&, std::int64_t, std::int64_t, double)>(
          "iql_fast::dropout_factors");
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  return op.call(like, seeds, step, layer, probability);
}

Tensor dropout_factors_cpu(const Tensor& like, const Tensor& seeds, std::int64_t step,
                           std::int64_t layer, double probability) {
  const Tensor factors = empty_factors(like, seeds, step, layer, probability);
  const Tensor keys = seeds.contiguous();
  const std::int64_t* key = read<std::int64_t>(keys);
  const std::int64_t count = factors.size(0);
  const std::int64_t elements = count > 0 ? factors.numel() / count : 0;  // of each seed
  const auto stream = static_cast<std::uint32_t>(kDropoutStream + layer);
  with_type(factors, [&](auto type) {
    using T = decltype(type);
    for (std::int64_t s = 0; s < count; ++s) {
      T* const out = written<T>(factors) + s * elements;
      share_out(elements, kGrain, [&](cpu::Range range) {
        const Dropout dropout{static_cast<std::uint64_t>(key[s]), static_cast<std::uint64_t>(step),
                              stream, probability};
        cpu::elementwise<T>().dropout_factors(dropout, out + range.begin, range);
      });
    }
  });
  return factors;
}

}  // namespace
}  // namespace iql::ops

TORCH_LIBRARY_IMPL(iql_fast, CPU, m) {
  m.impl("batch_rows_", &iql::ops::batch_rows_cpu);
  m.impl("gather_rows", &iql::ops::gather_rows_cpu);
  m.impl("dropout_factors", &iql::ops::dropout_factors_cpu);
}
#ifdef IQL_WITH_CUDA
TORCH_LIBRARY_IMPL(iql_fast, CUDA, m) {
  m.impl("batch_rows_", &iql::ops::batch_rows_cuda);
  m.impl("gather_rows", &iql::ops::gather_rows_cuda);
}
#endif
TORCH_LIBRARY_IMPL(iql_fast, Meta, m) {
  m.impl("batch_rows_", &iql::ops::batch_rows_meta);
  m.impl("gather_rows", &iql::ops::empty_batch);
  m.impl("dropout_factors", &iql::ops::empty_factors);
}
TORCH_LIBRARY_IMPL(iql_fast, Autograd, m) {
  m.impl("batch_rows_", &iql::ops::batch_rows_autograd);
  m.impl("dropout_factors", &iql::ops::dropout_factors_autograd);
  m.impl("gather_rows", torch::autograd::autogradNotImplementedFallback());
}
