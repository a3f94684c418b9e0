#include "engine/teams.h"

#include <algorithm>
#include <tuple>
#include <utility>

namespace iql::engine {
namespace {

// What a step's metrics cost, as Update::cost counts.
constexpr std::int64_t kMetricsCost = 32;

// The updates of the weights of some networks, for a team of so many.
std::vector<Update> updates(const Layouts& layouts, int panels_together,
                            const std::vector<int>& networks, int members) {
  std::vector<Update> found;
  for (const int id : networks) {
    const NetworkLayout& layout = layouts.of(id);
    for (std::size_t l = 0; l < layout.hidden.size(); ++l) {
      const HiddenLayer& layer = layout.hidden[l];
      const int lines = l == 0 ? layer.inputs : layer.outputs;
      const int panels = layout.panels(l == 0 ? layer.outputs : layer.inputs);
      const int each = panels * static_cast<int>(networks.size()) / members;  // a member
      const int together = std::max(1, std::min(panels_together, each));
      for (int p = 0; p < panels; p += together) {
        const int count = std::min(together, panels - p);
        found.push_back({id, Update::kWeights, int(l), p, count, std::int64_t(lines) * count});
      }
      const int columns = layout.panels(layer.outputs), share = (columns + members - 1) / members;
      for (int p = 0; l > 0 && p < columns; p += share) {
        const int count = std::min(share, columns - p);
        found.push_back({id, Update::kBiases, int(l), p, count, std::int64_t(4) * count});
      }
    }
    found.push_back({id, Update::kHead, -1, 0, 0, 32 * layout.outputs});
  }
  return found;
}

// Gives each update to the member with the least to do, the costliest first. The first member has
// `already` to do.
std::vector<std::vector<Update>> share_out(std::vector<Update> updates, int members,
                                           std::int64_t already) {
  std::stable_sort(updates.begin(), updates.end(),
                   [](const Update& a, const Update& b) { return a.cost > b.cost; });
  std::vector<std::vector<Update>> shares(members);
  std::vector<std::int64_t> load(members, 0);
  load[0] = already;
  for (const Update& update : updates) {
    const auto least = std::min_element(load.begin(), load.end());
    *least += update.cost;
    shares[least - load.begin()].push_back(update);
  }
  // In a network's order again: neighbours read the same activations.
  for (auto& share : shares) {
    std::sort(share.begin(), share.end(), [](const Update& a, const Update& b) {
      return std::tie(a.id, a.layer, a.part, a.panel) < std::tie(b.id, b.layer, b.part, b.panel);
    });
  }
  return shares;
}

// A team's plan of a stage of a run with so many critics.
StagePlan plan(const Stage& stage, int critics, const Layouts& layouts, int panels_together,
               const Team& team) {
  const auto group = [&](const std::vector<int>& ids, bool last) -> Group {
    return {ids, share_out(updates(layouts, panels_together, ids, team.size), team.size,
                           last ? kMetricsCost : 0)};
  };
  std::vector<std::vector<int>> others(1);
  const auto add = [&](int id) {
    if (!others.back().empty() && team.group(others.back().back()) != team.group(id)) {
      others.emplace_back();
    }
    others.back().push_back(id);
  };
  if (stage.actor) add(kActor);
  for (int e = 0; stage.critic && e < critics; ++e) add(kCritic + e);
  StagePlan made{group(stage.value ? std::vector<int>{kValue} : std::vector<int>{}, false), {}};
  for (const std::vector<int>& ids : others) {
    made.others.push_back(group(ids, &ids == &others.back()));
  }
  return made;
}

}  // namespace

Team::Team(int size, int first_thread, int batch_size, int block_rows, int together, bool apart)
    : size(size),
      first_thread(first_thread),
      together(together),
      apart(apart),
      barrier(size),
      bounds{0},
      first_block{0} {
  for (int m = 0; m < size; ++m) {
    // Whole cache lines of a column, so that no two members write to one.
    const auto bound = [&](int i) {
      const int at = static_cast<int>(std::int64_t(batch_size) * i / size);
      return i == size ? batch_size : at / 16 * 16;
    };
    const int begin = bound(m), count = bound(m + 1) - begin;
    const int blocks = (count + block_rows - 1) / block_rows;
    for (int b = 1; b <= blocks; ++b) bounds.push_back(begin + count * b / blocks);
    first_block.push_back(static_cast<int>(bounds.size()) - 1);
  }
}

Teams::Teams(const Config& config, const Layouts& layouts, int block_rows, int panels_together,
             int threads)
    : needs(threads) {
  const auto make_team = [&](int size, int first_thread) {
    // The fewer networks together, the nearer a network's activations when its weights are updated;
    // but every member shall have a share of those, of as many panels as are fastest.
    const int shares = std::max(1, layouts.value.panels(config.hidden.front()) / panels_together);
    auto team =
        std::make_unique<Team>(size, first_thread, config.batch_size, block_rows,
                               std::min((size + shares - 1) / shares, 1 + config.critics), false);
    if (size == 2 && config.critics == 2) {
      // In two blocks at least, so that one member can be at the second when the other gets the
      // first.
      const int half = (config.batch_size + 1) / 2;
      team->pair.reset(
          new Pair{{1, first_thread, config.batch_size, std::min(block_rows, half), 1, true}});
    }
    return team;
  };
  const int all = static_cast<int>(config.seeds.size());
  whole_seeds = all / threads * threads;
  for (int t = 0; whole_seeds > 0 && t < threads; ++t) alone.push_back(make_team(1, t));
  const int left = all - whole_seeds;
  for (int i = 0; i < left; ++i) {
    const int first = threads * i / left, last = threads * (i + 1) / left;
    shared.push_back(make_team(last - first, first));
  }
  // Plans, and what the workspaces of so many threads need for them.
  const auto prepare = [&](Team& team, int with_workspace) {
    for (const Stage& stage : config.stages) {
      team.plans.push_back(plan(stage, config.critics, layouts, panels_together, team));
    }
    for (int t = team.first_thread; t < team.first_thread + with_workspace; ++t) {
      needs[t].blocks = std::max(needs[t].blocks, team.blocks());
      needs[t].slots = std::max(needs[t].slots, team.slots());
    }
  };
  for (const auto* teams : {&alone, &shared}) {
    for (const auto& team : *teams) {
      prepare(*team, 1);
      if (team->pair) prepare(team->pair->alone, 2);
    }
  }
}

}  // namespace iql::engine
