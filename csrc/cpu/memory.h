// Memory for what the kernels work on. Not for the kernels' own files, which share no template with
// others (see kernels_impl.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#include "cpu/kernels.h"

namespace iql::cpu {

enum class Contents { kZero, kAny };

// Memory aligned to cache lines, which the kernels' vector loads rely on.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(std::size_t size, Contents contents = Contents::kZero) : size_(size) {
    constexpr std::size_t kLine = 64;
    const std::size_t bytes = (size * sizeof(T) / kLine + 1) * kLine;
    data_.reset(static_cast<T*>(std::aligned_alloc(kLine, bytes)));
    if (!data_) throw std::bad_alloc();
    if (contents == Contents::kZero) std::memset(static_cast<void*>(data_.get()), 0, bytes);
  }
  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  std::size_t size() const { return size_; }
  T& operator[](std::size_t i) { return data_.get()[i]; }
  const T& operator[](std::size_t i) const { return data_.get()[i]; }

 private:
  struct Free {
    void operator()(T* p) const { std::free(p); }
  };
  std::unique_ptr<T, Free> data_;
  std::size_t size_ = 0;
};

// Memory for the lists of a matrix's lines, in at most so many pieces.
template <class Operand>
class ListBuffer {
 public:
  ListBuffer() = default;
  ListBuffer(std::size_t lines, int pieces, Contents contents = Contents::kZero)
      : value_(lines * pieces * kListCapacity<Operand>, contents),
        place_(lines * pieces * kListCapacity<Operand>, contents),
        count_(lines * pieces, contents),
        pieces_(pieces) {}
  Lists<Operand> lists() { return in_pieces(pieces_); }
  Lists<Operand> in_pieces(int pieces) {
    return {value_.data(), place_.data(), count_.data(), pieces};
  }

 private:
  Buffer<Operand> value_;
  Buffer<std::uint8_t> place_;
  Buffer<int> count_;
  int pieces_ = 0;
};

}  // namespace iql::cpu
