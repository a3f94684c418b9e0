// Counter-based random numbers: Philox4x32-10 (Salmon et al., SC 2011).
//
// key = the seed; counter = (index, stream, step). A draw depends on nothing else, so a resumed
// run continues the stream it left, and CPU and CUDA draw the same batches.
#pragma once

#include <cstdint>

#include "iql/host_device.h"

namespace iql {

// What a draw is for: the stream word of its counter.
enum : std::uint32_t {
  kBatchStream = 0,
  kDropoutStream = 1,  // + the number of the hidden layer
};

struct PhiloxWords {
  std::uint32_t word[4];
};

IQL_HD inline PhiloxWords philox4x32(std::uint32_t c0, std::uint32_t c1, std::uint32_t c2,
                                     std::uint32_t c3, std::uint32_t k0, std::uint32_t k1) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * c0;
    const std::uint64_t p1 = std::uint64_t{0xCD9E8D57u} * c2;
    c0 = static_cast<std::uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<std::uint32_t>(p1);
    c2 = static_cast<std::uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<std::uint32_t>(p0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

IQL_HD inline PhiloxWords draw(std::uint64_t seed, std::uint64_t step, std::uint32_t stream,
                               std::uint32_t index) {
  return philox4x32(index, stream, static_cast<std::uint32_t>(step),
                    static_cast<std::uint32_t>(step >> 32), static_cast<std::uint32_t>(seed),
                    static_cast<std::uint32_t>(seed >> 32));
}

// The dataset row that place `index` of a step's batch holds, uniform in [0, rows) by 64-bit
// multiply-shift; rows < 2^32.
IQL_HD inline std::int64_t batch_row(std::uint64_t seed, std::uint64_t step, std::uint32_t index,
                                     std::int64_t rows) {
  const PhiloxWords x = draw(seed, step, kBatchStream, index);
  const std::uint64_t n = static_cast<std::uint64_t>(rows);
  const std::uint64_t low = (x.word[0] * n) >> 32;
  return static_cast<std::int64_t>((x.word[1] * n + low) >> 32);
}

// Words at or above this are kept by a dropout of probability p in [0, 1).
IQL_HD inline std::uint32_t dropout_threshold(double p) {
  return static_cast<std::uint32_t>(p * 4294967296.0);
}

// A dropout of one layer's elements in one step: of (seed, step, stream), word i decides on
// element i.
struct Dropout {
  std::uint64_t seed, step;
  std::uint32_t stream;
  double probability;
};

}  // namespace iql
