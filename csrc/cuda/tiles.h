// The tiles that a network's weights are cut into, each of which a team of threads updates.
#pragma once

#include "cuda/layout.h"

namespace iql::cuda {

constexpr int kTile = 32;  // rows and columns

// A tile of a layer's weights; `layer` is the network's depth for its head.
struct TilePlace {
  int layer, row, column;
};

IQL_HD inline int tiles_along(int n) { return (n + kTile - 1) / kTile; }

IQL_HD inline int tile_count(const NetworkLayout& net) {
  int count = 0;
  for (int l = 0; l < net.depth; ++l) {
    count += tiles_along(net.hidden[l].rows) * tiles_along(net.hidden[l].columns);
  }
  return count + tiles_along(net.head_inputs) * tiles_along(net.head_columns);
}

IQL_HD inline TilePlace tile_place(const NetworkLayout& net, int tile) {
  for (int l = 0; l <= net.depth; ++l) {
    const int rows = tiles_along(l < net.depth ? net.hidden[l].rows : net.head_inputs);
    const int columns = tiles_along(l < net.depth ? net.hidden[l].columns : net.head_columns);
    if (tile < rows * columns) return {l, tile / columns * kTile, tile % columns * kTile};
    tile -= rows * columns;
  }
  return {-1, 0, 0};  // networks with fewer tiles than the grid has
}

// Parameters of a tile, where it is kept apart from its network: kTile in a line, lines of a hidden
// layer's inputs or of the head's outputs; then the biases of its columns, where it is the tile
// that has them.
IQL_HD inline int tile_elements(const NetworkLayout& net, const TilePlace& place) {
  const bool head = place.layer == net.depth;
  const int left = head ? net.outputs - place.column : net.hidden[place.layer].rows - place.row;
  return (left < 0 ? 0 : left < kTile ? left : kTile) * kTile;
}
IQL_HD inline int tile_parameters(const NetworkLayout& net, const TilePlace& place) {
  return tile_elements(net, place) + (place.row == 0 ? kTile : 0);
}

}  // namespace iql::cuda
