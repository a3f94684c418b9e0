#include "cuda/deal.h"

#include <algorithm>
#include <tuple>

#include "cuda/tiles.h"

namespace iql::cuda {
namespace {

struct Tile {
  Duty duty;
  int floats;
};

// The seeds' duties of the networks [first, last), and of the metrics with the last network.
std::vector<Tile> tiles_of(const Problem& p, SeedRange seeds, int first, int last) {
  std::vector<Tile> tiles;
  for (int seed = seeds.first; seed < seeds.first + seeds.count; ++seed) {
    for (int network = first; network < last; ++network) {
      const NetworkLayout& net = p.layout(network);
      for (int tile = 0; tile < tile_count(net); ++tile) {
        const int parameters = tile_parameters(net, tile_place(net, tile));
        if (parameters == 0) continue;  // only the head's log-stds, whose owner is another one
        tiles.push_back({{seed, network, tile, 0}, kept_arrays(network) * parameters});
      }
    }
    if (last == p.networks()) tiles.push_back({{seed, last, 0, 0}, 0});
  }
  std::stable_sort(tiles.begin(), tiles.end(),
                   [](const Tile& a, const Tile& b) { return a.floats > b.floats; });
  return tiles;
}

}  // namespace

Dealt deal(const Problem& p, SeedRange seeds, int blocks) {
  std::vector<std::vector<Duty>> of(blocks);
  std::vector<int> floats(blocks, 0);
  const auto deal_out = [&](int first, int last) {
    std::vector<int> count(blocks, 0);
    for (Tile& tile : tiles_of(p, seeds, first, last)) {
      int least = 0;
      for (int b = 1; b < blocks; ++b) {
        if (std::tie(count[b], floats[b]) < std::tie(count[least], floats[least])) least = b;
      }
      tile.duty.state = floats[least];
      of[least].push_back(tile.duty);
      floats[least] += tile.floats;
      ++count[least];
    }
  };
  // What is updated together is dealt out together.
  if (!p.old_value) deal_out(engine::kValue, engine::kActor);
  deal_out(p.old_value ? engine::kValue : engine::kActor, p.networks());

  Dealt dealt{blocks, 0, *std::max_element(floats.begin(), floats.end()), {}};
  for (const auto& duties : of) dealt.most = std::max<int>(dealt.most, duties.size());
  for (auto& duties : of) {
    duties.resize(dealt.most, {-1, 0, 0, 0});
    dealt.duties.insert(dealt.duties.end(), duties.begin(), duties.end());
  }
  return dealt;
}

}  // namespace iql::cuda
