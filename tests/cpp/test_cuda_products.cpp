// The products of a training step under the emulator, in each precision: against the products, in
// fp64, of what the precision makes of the factors.
#include <cuda_runtime.h>

#include <cmath>
#include <vector>

#include "beside.h"
#include "check.h"
#include "cuda/launch.h"
#include "cuda/products_fp32.h"
#include "cuda/products_mma.h"
#include "cuda/products_wgmma.h"

namespace {

using namespace iql::cuda;

// Of a sum of products in fp32, relative to the sum of their magnitudes: sixteen times the unit
// roundoff. Were one factor not rounded to tf32, or otherwise than to nearest, that were a hundred
// times as much.
constexpr double kSumError = 0x1p-20;

// What a precision makes of a factor, and how much it leaves out besides, relative to the sum of
// the products' magnitudes.
struct Accuracy {
  double (*factor)(float);
  double left_out;
};
double itself(float x) { return x; }
// Ties away from zero.
double rounded_to_tf32(float x) {
  int exponent = 0;
  const double mantissa = std::frexp(x, &exponent);
  return std::ldexp(std::round(mantissa * 0x1p11) * 0x1p-11, exponent);
}
constexpr Accuracy kFp32{itself, 0};
// The second bf16 of a factor is off by 2^-9 of what the first one left, which is 2^-9 of the
// factor; and so much is the product of two second ones.
constexpr Accuracy kBf16x3{itself, 3 * 0x1p-18};
constexpr Accuracy kTf32{rounded_to_tf32, 0};

// A matrix [rows][columns] or, transposed, [columns][rows].
struct Matrix {
  const std::vector<float>& values;
  int line;
  bool transposed = false;
  float at(int row, int column) const {
    return values[transposed ? column * line + row : row * line + column];
  }
};

// The largest error of `found` as left [rows][inputs] times right [inputs][columns], in units of
// what is allowed.
double error(const Accuracy& accuracy, const Matrix& left, const Matrix& right, int inputs,
             const std::vector<float>& found, int rows, int columns) {
  double worst = 0;
  for (int r = 0; r < rows; ++r) {
    for (int c = 0; c < columns; ++c) {
      double sum = 0, magnitude = 0;
      for (int k = 0; k < inputs; ++k) {
        const double term = accuracy.factor(left.at(r, k)) * accuracy.factor(right.at(k, c));
        sum += term;
        magnitude += std::abs(term);
      }
      const double off =
          std::abs(found[r * columns + c] - sum) / ((kSumError + accuracy.left_out) * magnitude);
      if (!(off <= worst)) worst = off;
    }
  }
  return worst;
}

struct OneProduct {
  Weights weights;
  int count = 1;
  Weights operator[](int) const { return weights; }
};

template <class Precision, int kRows>
__global__ void rows_product_kernel(const float* in, Weights weights, float* result) {
  const OneProduct product{weights};
  const int inputs = weights.inputs, outputs = weights.outputs, line = panel_line(inputs);
  float* panel = shared_floats();
  float* scratch = panel + kRows * line;
  WeightQueue<Precision, OneProduct> queue(scratch + Precision::scratch_size(kRows), product);
  for (int i = threadIdx.x; i < kRows * inputs; i += Precision::kRowsThreads) {
    panel[i / inputs * line + i % inputs] = in[i];
  }
  __syncthreads();
  Precision::template rows<kRows>(panel, line, inputs, outputs, queue, scratch,
                                  [&](int row, int column, const auto& values) {
                                    float* to = result + row * outputs + column;
                                    for (const float value : values) *to++ = value;
                                  });
}

// Weights [rows][columns] as the products of the forward and the backward pass read them.
template <class Products>
__global__ void operands_kernel(HiddenLayout layer, const float* weights, float* operands) {
  float* tile = shared_floats();
  for (int row = 0; row < layer.rows; row += kTile) {
    for (int column = 0; column < layer.columns; column += kTile) {
      for (int e = threadIdx.x; e < kTile * kTile; e += kThreads) {
        const int i = e / kTile, j = e % kTile;
        if (row + i >= layer.rows || column + j >= layer.columns) continue;
        tile[i * kTileLine + j] = weights[(row + i) * layer.columns + column + j];
      }
      __syncthreads();
      Products::write_forward(layer, tile, row, column, operands + layer.forward);
      Products::write_backward(layer, tile, row, column, operands + layer.backward);
      __syncthreads();
    }
  }
}

template <class Precision, int kRows>
std::vector<float> rows_product(const std::vector<float>& in, const Weights& weights) {
  std::vector<float> result(kRows * weights.outputs);
  const std::size_t bytes =
      (kRows * panel_line(weights.inputs) + Precision::scratch_size(kRows)) * sizeof(float) +
      WeightQueue<Precision, OneProduct>::kBytes;
  auto* const kernel = rows_product_kernel<Precision, kRows>;
  CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(bytes)) == cudaSuccess);
  CHECK(launch(kernel, {1, Precision::kRowsThreads, bytes, nullptr}, in.data(), weights,
               result.data()) == cudaSuccess);
  return result;
}

// A layer's product forward, and that of its gradient back.
template <class Precision, int kRows>
void rows_are_right(const Accuracy& accuracy, int rows, int columns) {
  using Products = typename Precision::Base;
  HiddenLayout layer{};
  layer.rows = rows;
  layer.columns = columns;
  layer.backward = rows * columns;
  beside::Noise noise(3);
  const std::vector<float> weights = noise.column(rows * columns);
  std::vector<float> operands(2 * rows * columns);
  CHECK(launch(operands_kernel<Products>, {1, kThreads, kTile * kTileLine * sizeof(float), nullptr},
               layer, weights.data(), operands.data()) == cudaSuccess);
  for (const bool back : {false, true}) {
    const int inputs = back ? columns : rows, outputs = back ? rows : columns;
    const std::vector<float> in = noise.column(kRows * inputs);
    const float* operand = back ? operands.data() + layer.backward
                                : Products::forward(layer, weights.data(), operands.data());
    const std::vector<float> found = rows_product<Precision, kRows>(in, {operand, inputs, outputs});
    CHECK(error(accuracy, {in, inputs}, {weights, columns, back}, inputs, found, kRows, outputs) <
          1);
  }
}

template <class Products>
__global__ void tile_kernel(const float* left, const float* right, float* result) {
  using Tile = typename Products::Tile;
  float *l = shared_floats(), *r = l + kSlice * kTileLine, *sums = r + kSlice * kTileLine;
  for (int i = threadIdx.x; i < kSlice * kTile; i += kThreads) {
    const int at = i / kTile * kTileLine + i % kTile;
    l[at] = left[i];
    r[at] = right[i];
  }
  __syncthreads();
  Tile tile;
  tile.add(l, r);
  tile.store(sums + Tile::group() * kTile * kTileLine);
  __syncthreads();
  for (int i = threadIdx.x; i < kTile * kTile; i += kThreads) {
    const float* at = sums + i / kTile * kTileLine + i % kTile;
    const auto part = [at](int group) { return at[group * kTile * kTileLine]; };
    result[i] = sum_of<Tile::kGroups>(part);
  }
}

template <class Products>
void a_tile_is_right(const Accuracy& accuracy) {
  beside::Noise noise(4);
  const std::vector<float> left = noise.column(kSlice * kTile), right = noise.column(left.size());
  std::vector<float> found(kTile * kTile);
  const std::size_t bytes = (2 * kSlice + Products::Tile::kGroups * kTile) * kTileLine * 4;
  CHECK(cudaFuncSetAttribute(tile_kernel<Products>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(bytes)) == cudaSuccess);
  CHECK(launch(tile_kernel<Products>, {1, kThreads, bytes, nullptr}, left.data(), right.data(),
               found.data()) == cudaSuccess);
  CHECK(error(accuracy, {left, kTile, true}, {right, kTile}, kSlice, found, kTile, kTile) < 1);
}

// In padded sizes: one fragment, several with a remainder, more columns than a pass has.
template <class Precision>
void products_are_right(const Accuracy& accuracy) {
  const int sizes[][2] = {{16, 16}, {48, 80}, {272, 32}, {32, 304}};
  for (const auto& size : sizes) {
    rows_are_right<Precision, Precision::kLeastRows>(accuracy, size[0], size[1]);
    rows_are_right<Precision, Precision::kMostRows>(accuracy, size[0], size[1]);
  }
  a_tile_is_right<typename Precision::Base>(accuracy);
}

}  // namespace

int main() {
  CHECK(rounded_to_tf32(1 + 0x1p-11f) == 1 + 0x1p-10);
  emulator::set_shared_memory(227 << 10);
  emulator::set_schedule(1);
  products_are_right<Fp32>(kFp32);
  products_are_right<Bf16x3Rows<1>>(kBf16x3);
  products_are_right<Bf16x3Rows<2>>(kBf16x3);
  products_are_right<Bf16x3Warpgroups>(kBf16x3);
  products_are_right<Tf32Rows<1>>(kTf32);
  products_are_right<Tf32Rows<2>>(kTf32);
}
