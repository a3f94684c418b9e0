#include "cpu/product_times.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <vector>

#include "cpu/memory.h"
#include "iql/philox.h"

namespace iql::cpu {

namespace {

using Clock = std::chrono::steady_clock;

// A panel matrix of numbers of which a share is not zero, as operands.
template <class T, class Operand>
Buffer<Operand> operands(const Kernels<T, Operand>& kernels, int rows, int columns,
                         double density) {
  const int P = kernels.panel, panels = (columns + P - 1) / P;
  Buffer<T> numbers(std::size_t(panels) * rows * P);
  Buffer<Operand> result(numbers.size());
  for (int c = 0; c < columns; ++c) {
    for (int r = 0; r < rows; ++r) {
      const PhiloxWords words = draw(1, 0, 0, std::uint32_t(c * rows + r));
      const bool zero = words.word[0] >= density * 4294967296.0;
      const std::size_t at = (std::size_t(c / P) * rows + r) * P + c % P;
      numbers[at] = zero ? T(0) : T((1 + words.word[1] % 1024) / 1024.0);
    }
  }
  kernels.operands(numbers.data(), panels * rows, result.data());
  return result;
}

template <class Body>
void shorten(double& seconds, const Body& body) {
  const Clock::time_point start = Clock::now();
  body();
  seconds = std::min(seconds, std::chrono::duration<double>(Clock::now() - start).count());
}

}  // namespace

template <class T, class Operand>
LayerTimes time_products(const Kernels<T, Operand>& kernels, int rows, int inputs, int outputs,
                         double seconds) {
  constexpr double kNone = std::numeric_limits<double>::infinity();
  constexpr int kAtLeast = 3;
  const int P = kernels.panel, m = std::min(rows, kernels.piece);
  const auto panels = [P](int columns) { return (columns + P - 1) / P; };
  const auto of = [m, P](auto& matrix) {
    return Rows<std::remove_reference_t<decltype(*matrix.data())>>{matrix.data(),
                                                                   std::size_t(m) * P};
  };
  const auto constant = [](Rows<Operand> all) {
    return Rows<const Operand>{all.data, all.panel_stride};
  };
  const Buffer<Operand> weight = operands(kernels, inputs, outputs, 1),
                        weight_t = operands(kernels, outputs, inputs, 1);
  const Buffer<T> bias(std::size_t(panels(outputs)) * P);
  // The operand whose zeros count: a layer's input, the gradient of its output.
  std::vector<Buffer<Operand>> in, d_out;
  for (const double density : {kTimedDensities[0], kTimedDensities[1], 1.0}) {
    in.push_back(operands(kernels, m, inputs, density));
    d_out.push_back(operands(kernels, m, outputs, density));
  }
  Buffer<Operand> out(std::size_t(panels(outputs)) * m * P), d_in(panels(inputs) * m * P);
  const int widest = std::max(inputs, outputs);
  Buffer<Operand> room(kernels.dense.room(m, widest));
  Buffer<T> list_room(kernels.list_room(m)), gradient(std::size_t(panels(inputs)) * outputs * P);
  ListBuffer<Operand> rows_listed(m, kernels.pieces_of(widest)),
      columns_listed(std::size_t(panels(outputs)) * P, 1);
  const int bounds[] = {0, m};

  LayerTimes times;
  for (ProductTimes* kind : {&times.forward, &times.backward, &times.weights}) {
    *kind = {kNone, {kNone, kNone}};
  }
  const bool listable = kernels.list_density > 0;
  const Clock::time_point start = Clock::now();
  for (int round = 0;
       round < kAtLeast || std::chrono::duration<double>(Clock::now() - start).count() < seconds;
       ++round) {
    Rows<const Operand> x = constant(of(in[2])), d = constant(of(d_out[2]));
    shorten(times.forward.dense, [&] {
      kernels.dense.forward(x, m, inputs, weight.data(), bias.data(), outputs, room.data(),
                            of(out));
    });
    shorten(times.backward.dense, [&] {
      kernels.dense.backward(d, m, outputs, weight_t.data(), x, inputs, T(1), room.data(),
                             of(d_in));
    });
    shorten(times.weights.dense, [&] {
      kernels.dense.weight_gradient(d, m, outputs, x, panels(inputs), room.data(), gradient.data());
    });
    for (int i = 0; i < 2 && listable; ++i) {
      x = constant(of(in[i]));
      d = constant(of(d_out[i]));
      shorten(times.forward.listed[i], [&] {
        const Lists<Operand> lists = rows_listed.in_pieces(kernels.pieces_of(inputs));
        kernels.list_rows(x, m, inputs, lists);
        kernels.forward_lists(lists, m, inputs, weight.data(), bias.data(), outputs,
                              list_room.data(), of(out));
      });
      shorten(times.backward.listed[i], [&] {
        const Lists<Operand> lists = rows_listed.in_pieces(kernels.pieces_of(outputs));
        kernels.list_rows(d, m, outputs, lists);
        kernels.backward_lists(lists, m, outputs, weight_t.data(), x, inputs, T(1),
                               list_room.data(), of(d_in));
      });
      shorten(times.weights.listed[i], [&] {
        const Lists<Operand> lists = columns_listed.in_pieces(1);
        kernels.list_columns(d, m, outputs, lists, 0);
        kernels.weight_gradient_lists(lists, bounds, outputs, x, panels(inputs), list_room.data(),
                                      gradient.data());
      });
    }
  }
  for (ProductTimes* kind : {&times.forward, &times.backward, &times.weights}) {
    for (double* of_block : {&kind->dense, &kind->listed[0], &kind->listed[1]}) {
      *of_block *= double(rows) / m;
    }
  }
  return times;
}

template LayerTimes time_products(const Kernels<float>&, int, int, int, double);
template LayerTimes time_products(const Kernels<double>&, int, int, int, double);
template LayerTimes time_products(const Kernels<float, BFloat16>&, int, int, int, double);

}  // namespace iql::cpu
