// Products whose left matrix is given by lists of its lines' nonzero elements (kernels_listing.h
// makes them). A part of kernels_impl.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "cpu/kernels_products.h"
#include "cpu/kernels_widened.h"

namespace iql::cpu::IQL_ISA {
namespace {

// Four places in one load: loads are what limits a product with lists.
inline std::uint32_t four_places(const std::uint8_t* place) {
  std::uint32_t four;
  std::memcpy(&four, place, sizeof four);
  return four;
}

// The offset of the row of a panel that the i-th of them selects. Which end it starts from is the
// machine's own affair.
template <class T>
inline std::size_t row_at(std::uint32_t four, int i) {
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
  i = 3 - i;
#endif
  return std::size_t(four >> 8 * i & 0xff) * Vector<T>::kPanel;
}

// sum += what four elements of a list select of NP panels b, the elements one after the other.
template <class T, class Element>
struct FourElements {
  static constexpr bool kDescending = false;

  template <int NP>
  static inline void add(const T* value, const std::uint8_t* place, Rows<const T> b,
                         Tile<T, NP>& sum) {
    const auto add_row = [&](Vec<T> x, std::size_t where) {
#pragma GCC unroll 4
      for (int p = 0; p < NP; ++p) {
        const T* row = b.data + p * b.panel_stride + where;
        sum.add(p, x, load(row), load(row + Vector<T>::kWidth));
      }
    };
    const Lanes x = lanes(value);
    const std::uint32_t where = four_places(place);
    add_row(element<0>(x), row_at<T>(where, 0));
    add_row(element<1>(x), row_at<T>(where, 1));
    add_row(element<2>(x), row_at<T>(where, 2));
    add_row(element<3>(x), row_at<T>(where, 3));
  }

 private:
#if defined(__AVX512F__)
  using Lanes = Vec<T>;
  static inline Lanes lanes(const T* value) {
    if constexpr (sizeof(T) == 4) {
      return (Vec<T>)_mm512_broadcast_f32x4(_mm_loadu_ps(reinterpret_cast<const float*>(value)));
    } else {
      return (Vec<T>)_mm512_broadcast_f64x4(
          _mm256_loadu_pd(reinterpret_cast<const double*>(value)));
    }
  }
  template <int I>
  static inline Vec<T> element(Lanes x) {
    if constexpr (sizeof(T) == 4) {
      return (Vec<T>)_mm512_permute_ps((__m512)x, I * 0x55);
    } else {
      return (Vec<T>)_mm512_permutex_pd((__m512d)x, I * 0x55);
    }
  }
#else
  using Lanes = const T*;
  static inline Lanes lanes(const T* value) { return value; }
  template <int I>
  static inline Vec<T> element(Lanes value) {
    return broadcast(value[I]);
  }
#endif
};

#if defined(__AVX512BF16__)
// Two at a time: an instruction multiplies a pair of elements with a pair of rows, whose columns
// are interleaved for it. It adds the second product, then the first, each rounded: a list that is
// gone through backwards gives the same sum whichever elements happen to be pairs, and so however
// lines are cut into pieces.
template <>
struct FourElements<float, BFloat16> {
  static constexpr bool kDescending = true;

  template <int NP>
  static inline void add(const BFloat16* value, const std::uint8_t* place, Rows<const BFloat16> b,
                         Tile<float, NP>& sum) {
    const std::uint32_t where = four_places(place);
#pragma GCC unroll 2
    for (int i = 2; i >= 0; i -= 2) {
      std::int32_t pair;
      std::memcpy(&pair, value + i, sizeof pair);
      const __m512bh x = (__m512bh)_mm512_set1_epi32(pair);
#pragma GCC unroll 4
      for (int p = 0; p < NP; ++p) {
        const BFloat16* panel = b.data + p * b.panel_stride;
        __m512i first = _mm512_load_si512(panel + row_at<float>(where, i)),
                second = _mm512_load_si512(panel + row_at<float>(where, i + 1));
        asm("" : "+v"(first), "+v"(second));  // in registers: else both unpackings load them again
        sum.left[p] = (Vec<float>)_mm512_dpbf16_ps((__m512)sum.left[p], x,
                                                   (__m512bh)_mm512_unpacklo_epi16(first, second));
        sum.right[p] = (Vec<float>)_mm512_dpbf16_ps((__m512)sum.right[p], x,
                                                    (__m512bh)_mm512_unpackhi_epi16(first, second));
      }
    }
  }
};
#endif

template <class T>
inline Vec<T> choose(bool second, Vec<T> a, Vec<T> b) {
#if defined(__AVX512F__)
  const auto mask = static_cast<__mmask16>(-int{second});
  if constexpr (sizeof(T) == 4) return (Vec<T>)_mm512_mask_mov_ps((__m512)a, mask, (__m512)b);
#endif
  return second ? b : a;
}

// A line of a product under way: what is left of its list, and its sums so far, NP panels side by
// side.
template <class T, int NP, class Operand>
struct Line {
  using Element = Factor<T, Operand>;
  using Step = FourElements<T, Element>;
  Tile<T, NP> sum;
  const Element* value;  // of the next four elements
  const std::uint8_t* place;
  int left, number;

  __attribute__((always_inline)) inline void start(Lists<Operand> a, int piece, int line,
                                                   bool first, Rows<T> out) {
    constexpr int P = Vector<T>::kPanel, W = Vector<T>::kWidth;
    const std::size_t list = std::size_t(line) * a.pieces + piece;
    number = line;
    left = a.count[list];
    const int at = Step::kDescending ? left - 4 : 0;
    value = values_of<T>(a, list) + at;
    place = a.place + list * kListCapacity<Operand> + at;
    T* sums = out.data + std::size_t(line) * P;
#pragma GCC unroll 4
    for (int p = 0; p < NP; ++p) {
      sum.left[p] = first ? Vec<T>{} : load(sums + p * out.panel_stride);
      sum.right[p] = first ? Vec<T>{} : load(sums + p * out.panel_stride + W);
    }
  }
  inline void add(int done, Rows<const Element> b) {
    const int i = Step::kDescending ? -done : done;
    Step::template add<NP>(value + i, place + i, b, sum);
  }
  inline void advance(int done) {
    left -= done;
    value += Step::kDescending ? -done : done;
    place += Step::kDescending ? -done : done;
  }
  template <class Finish>
  __attribute__((always_inline)) inline void end(const Finish finish) const {
#pragma GCC unroll 4
    for (int p = 0; p < NP; ++p) finish(number, p, sum.left[p], sum.right[p]);
  }
};

// The rows that the next pass over the lines will read, brought near by and by with each line of
// this pass: lists touch them in an order that no processor foresees.
template <class T, class Operand, int Piece>
class Ahead {
 public:
  Ahead(Rows<const Operand> rows, int panels, int fetches)
      : rows_(rows), panels_(panels), step_((kEnd / kLine + fetches - 1) / fetches * kLine) {}

  inline void fetch() {
    const int stop = at_ + step_ < kEnd ? at_ + step_ : kEnd;
    for (; at_ < stop; at_ += kLine) {
      for (int p = 0; p < panels_; ++p) {
        __builtin_prefetch(rows_.data + p * rows_.panel_stride + at_);
      }
    }
  }

 private:
  static constexpr int kLine = 64 / sizeof(Operand);      // a cache line
  static constexpr int kEnd = Piece * Vector<T>::kPanel;  // of a panel's rows
  Rows<const Operand> rows_;
  int panels_, step_, at_ = 0;
};

// Whether lists were made just before they are used, or so long before that they have left the
// cache.
enum class Made { kNow, kBefore };

// Always inlined: GCC takes a call of a function that only prefetches for one without effect, and
// drops it.
template <class T, int Piece, class Operand>
__attribute__((always_inline)) inline void fetch_lists(Lists<Operand> a, int piece, int line,
                                                       int count) {
  constexpr int kLine = 64 / sizeof(Factor<T, Operand>), kUsual = Piece / 2;  // a half is not zero
  for (int l = line; l < line + count; ++l) {
    const std::size_t list = std::size_t(l) * a.pieces + piece;
    const auto* place = a.place + list * kListCapacity<Operand>;
    for (int i = 0; i < kUsual; i += kLine) __builtin_prefetch(values_of<T>(a, list) + i);
    for (int i = 0; i < kUsual; i += 64) __builtin_prefetch(place + i);
  }
}

// out [m lines, NP panels] += lists * b, over one piece; out is taken as zero where `first`. Then
// finish(line, panel, left, right) of every vector of the result stores it.
//
// Where two lines go at a time, the additions of one go on while those of the other wait for their
// last result. When the shorter ends, the next line takes its place; which it is is chosen without
// a branch, as nobody foresees it.
//
// All arguments are values: what a store could change would be loaded again. Never inlined: beside
// its callers' variables GCC has no registers left for the loop's pointers.
template <class T, int NP, int Piece, int kLines, Made kMade, class Operand, class Finish>
__attribute__((noinline)) IQL_KERNEL void multiply_piece(Lists<Operand> a, int piece, int m,
                                                         Rows<const Factor<T, Operand>> b,
                                                         Ahead<T, Operand, Piece> ahead, bool first,
                                                         Rows<T> out, const Finish finish) {
  Line<T, NP, Operand> one;
  one.start(a, piece, 0, first, out);
  if constexpr (kLines == 2) {
    for (int line = 1; line < m; ++line) {
      Line<T, NP, Operand> other;
      other.start(a, piece, line, first, out);
      ahead.fetch();
      if (kMade == Made::kBefore && line + 1 < m) fetch_lists<T, Piece>(a, piece, line + 1, 1);
      const int common = one.left < other.left ? one.left : other.left;
      for (int done = 0; done < common; done += 4) {
        one.add(done, b);
        other.add(done, b);
      }
      const bool longer = one.left < other.left;  // the other
      Line<T, NP, Operand> ended, rest;
#pragma GCC unroll 4
      for (int p = 0; p < NP; ++p) {
        ended.sum.left[p] = choose<T>(longer, other.sum.left[p], one.sum.left[p]);
        ended.sum.right[p] = choose<T>(longer, other.sum.right[p], one.sum.right[p]);
        rest.sum.left[p] = choose<T>(longer, one.sum.left[p], other.sum.left[p]);
        rest.sum.right[p] = choose<T>(longer, one.sum.right[p], other.sum.right[p]);
      }
      ended.number = longer ? one.number : other.number;
      ended.end(finish);
      rest.number = longer ? other.number : one.number;
      rest.value = longer ? other.value : one.value;
      rest.place = longer ? other.place : one.place;
      rest.left = longer ? other.left : one.left;
      rest.advance(common);
      one = rest;
    }
    for (int done = 0; done < one.left; done += 4) one.add(done, b);
    one.end(finish);
  } else {
    for (int line = 0;;) {
      ahead.fetch();
      if (kMade == Made::kBefore && line + 1 < m) fetch_lists<T, Piece>(a, piece, line + 1, 1);
      for (int done = 0; done < one.left; done += 4) one.add(done, b);
      one.end(finish);
      if (++line == m) break;
      one.start(a, piece, line, first, out);
    }
  }
}

// Elements of operands that are widened at a time, beside the sums: those of a piece.
template <class T, class Operand, int NP, int Piece>
constexpr std::size_t kWidened =
    std::is_same_v<Factor<T, Operand>, Operand> ? 0 : std::size_t(NP) * Piece * Vector<T>::kPanel;

// finish(lists * b), m lines of `count` panels, NP at a time. Piece p of the lists meets the rows
// first_row(p) ... first_row(p + 1) of b; sums(p) is where the sums of panels from p on wait for
// the next piece.
template <class T, int NP, int Piece, int kLines, Made kMade, class Operand, class FirstRow,
          class Sums, class Finish>
inline void multiply_lists(Lists<Operand> a, int m, Rows<const Operand> b,
                           const FirstRow& first_row, int count, T* wide, const Sums& sums,
                           const Finish& finish) {
  constexpr int P = Vector<T>::kPanel, W = Vector<T>::kWidth;
  const auto piece_at = [&](int i) {
    return FourElements<T, Factor<T, Operand>>::kDescending ? a.pieces - 1 - i : i;
  };
  const auto rows = [&](int p, int piece) {
    return Rows<const Operand>{b.data + p * b.panel_stride + std::size_t(first_row(piece)) * P,
                               b.panel_stride};
  };
  const auto usable = [&](auto panels_at_once, int p, int piece) {
    const Rows<const Operand> from = rows(p, piece);
    if constexpr (std::is_same_v<Factor<T, Operand>, Operand>) {
      return from;
    } else {
      const Rows<T> to{wide, std::size_t(Piece) * P};
      widen<T>(from, first_row(piece + 1) - first_row(piece), decltype(panels_at_once)::value, to);
      return Rows<const T>{to.data, to.panel_stride};
    }
  };
  const auto group = [&](auto panels_at_once, int p) {
    constexpr int N = decltype(panels_at_once)::value;
    const int left = count - (p + N);  // panels
    const Rows<T> to{sums(p), std::size_t(m) * P};
    const int fetches = m > 1 ? m - 1 : 1;
    for (int i = 0; i < a.pieces; ++i) {
      const int piece = piece_at(i);
      if (i + 1 < a.pieces) {
        multiply_piece<T, N, Piece, kLines, kMade>(
            a, piece, m, usable(panels_at_once, p, piece), {rows(p, piece_at(i + 1)), N, fetches},
            i == 0, to, [=](int line, int q, Vec<T> left, Vec<T> right) {
              T* at = to.data + q * to.panel_stride + std::size_t(line) * P;
              store(at, left);
              store(at + W, right);
            });
      } else {
        multiply_piece<T, N, Piece, kLines, kMade>(
            a, piece, m, usable(panels_at_once, p, piece),
            {left > 0 ? rows(p + N, piece_at(0)) : Rows<const Operand>{}, left < N ? left : N,
             fetches},
            i == 0, to,
            [=](int line, int q, Vec<T> left, Vec<T> right) { finish(line, p + q, left, right); });
      }
    }
  };
  int p = 0;
  for (; p + NP <= count; p += NP) group(RowCount<NP>{}, p);
  if constexpr (NP > 2) {
    for (; p + 2 <= count; p += 2) group(RowCount<2>{}, p);
  }
  for (; p < count; ++p) group(RowCount<1>{}, p);
}

// Of lines of k elements.
template <int Piece>
inline auto first_of_piece(int k) {
  return [=](int piece) { return piece * Piece < k ? piece * Piece : k; };
}

template <class T, class Operand, int NP, int Piece, int kLines>
IQL_KERNEL void forward_lists(Lists<Operand> in, int m, int k, const Operand* weight, const T* bias,
                              int n, T* room, Rows<Operand> out) {
  constexpr int P = Vector<T>::kPanel;
  T* sums = room + kWidened<T, Operand, NP, Piece>;
  multiply_lists<T, NP, Piece, kLines, Made::kNow>(
      in, m, Rows<const Operand>{weight, std::size_t(k) * P}, first_of_piece<Piece>(k),
      panels<T>(n), room, [=](int) { return sums; },
      [=](int line, int p, Vec<T> left, Vec<T> right) {
        finish_forward<T>(left, right, bias + p * P, out.data + p * out.panel_stride + line * P);
      });
}

template <class T, class Operand, int NP, int Piece, int kLines>
IQL_KERNEL void backward_lists(Lists<Operand> d_out, int m, int n, const Operand* weight_t,
                               Rows<const Operand> in, int k, T scale, T* room,
                               Rows<Operand> d_in) {
  constexpr int P = Vector<T>::kPanel;
  T* sums = room + kWidened<T, Operand, NP, Piece>;
  multiply_lists<T, NP, Piece, kLines, Made::kNow>(
      d_out, m, Rows<const Operand>{weight_t, std::size_t(n) * P}, first_of_piece<Piece>(n),
      panels<T>(k), room, [=](int) { return sums; },
      [=](int line, int p, Vec<T> left, Vec<T> right) {
        finish_backward<T>(left, right, scale, in.data + p * in.panel_stride + line * P,
                           d_in.data + p * d_in.panel_stride + line * P);
      });
}

template <class T, class Operand, int NP, int Piece, int kLines>
IQL_KERNEL void weight_gradient_lists(Lists<Operand> in, const int* bounds, int k,
                                      Rows<const Operand> d_out, int count, T* room, T* d_weight) {
  constexpr int P = Vector<T>::kPanel, W = Vector<T>::kWidth;
  const auto panel = [=](int p) { return d_weight + std::size_t(p) * k * P; };
  multiply_lists<T, NP, Piece, kLines, Made::kBefore>(
      in, k, d_out, [=](int piece) { return bounds[piece]; }, count, room, panel,
      [=](int line, int p, Vec<T> left, Vec<T> right) {
        T* at = panel(p) + std::size_t(line) * P;
        store(at, left);
        store(at + W, right);
      });
}

}  // namespace
}  // namespace iql::cpu::IQL_ISA
