#include "engine/steps.h"

#include <algorithm>
#include <chrono>

namespace iql::engine {

using Clock = std::chrono::steady_clock;

template <class T, class Operand>
void Steps<T, Operand>::train_seed(
    Seed& seed, int index, std::int64_t first_step, std::int64_t steps, const GivenBatch<T>* given,
    Team& team, int member, const std::vector<std::unique_ptr<Workspace>>& workspaces) const {
  Workspace& w = *workspaces[team.first_thread];
  Workspace& own = *workspaces[team.first_thread + member];
  const RowShare share = team.rows(member);
  const int begin = share.begin(), end = share.end();
  const Net& value = seed.networks[kValue];
  const T kept = T(1.0 / (1.0 - setup_.config.actor_dropout));
  const auto joint = [&](std::int64_t step) {
    const Stage& stage = setup_.config.stages[moment(setup_.config.stages, step).stage];
    return stage.value && stage.actor && stage.critic;
  };
  const auto paired = [&](std::int64_t step) {
    return team.pair && team.pair->by_networks && joint(step);
  };
  const Parts of_member{member == 0, member == 1};  // of a pair
  const auto draw = [&](std::int64_t step) {
    if (given != nullptr) return;
    if (paired(step)) {
      batches_.draw_rows(seed, step, of_member, own, 0, setup_.config.batch_size);
    } else {
      batches_.draw_rows(seed, step, {true, true}, w, begin, end);
    }
  };
  if (team.pair && member == 0) {
    team.pair->reset();
    team.pair->by_networks =
        setup_.config.sharing == Sharing::kNetworks ||
        (setup_.config.sharing == Sharing::kFaster && team.pair->faster.way() == 0);
  }
  // The first member may still be at a seed of its own, with the workspace that is now to be
  // shared.
  team.barrier.wait();
  const Clock::time_point start = Clock::now();

  draw(first_step);
  for (std::int64_t step = first_step; step < first_step + steps && !team.stop; ++step) {
    const Moment now = moment(setup_.config.stages, step);
    const Stage& stage = setup_.config.stages[now.stage];
    if (paired(step)) {
      batches_.gather(index, given, of_member, own, 0, setup_.config.batch_size);
      Workspace& others = *workspaces[team.first_thread + 1 - member];
      if (member == 0) {
        step_value_and_actor(seed, index, step, now, own, others, *team.pair, draw);
        team.stop = seed.failure.has_value();
      } else {
        step_critics(seed, step, now, own, others, *team.pair, draw);
      }
      team.barrier.wait();
      continue;
    }
    const StagePlan& plan = team.plans[now.stage];
    batches_.gather(index, given, {stage.critic, stage.critic}, w, begin, end);
    if (stage.value || stage.actor) passes_.least_target(seed, w, share, own);
    if (stage.value) {
      passes_.forward_saved(value, kValue, w, team, share, own, nullptr, step);
      losses_.value_head(seed, w, begin, end);
      passes_.backward(value, kValue, w, team, share, own, T(1));
    }
    const auto read_value = [&] {  // as the losses of the actor and the critics read it
      if (stage.actor) {
        passes_.forward(setup_.layouts.value, value.trained, w.input, share, own, w.v.data());
      }
      if (stage.critic) {
        passes_.forward(setup_.layouts.value, value.trained, w.next_input, share, own,
                        w.v_next.data());
      }
    };
    if (!stage.value || setup_.config.old_value) read_value();
    if (member == 0 && stage.actor) losses_.read_log_std(seed);
    team.barrier.wait();

    if (stage.value) {
      optimizer_.update(seed, plan.value.updates[member], now, w, team, own);
      team.barrier.wait();
      if (!setup_.config.old_value) read_value();
    }
    for (const Group& group : plan.others) {
      const bool last = &group == &plan.others.back();
      for (const int id : group.ids) {
        const Net& net = seed.networks[id];
        if (id == kActor) {
          passes_.forward_saved(net, id, w, team, share, own, &seed, step);
          losses_.actor_head(seed, w, begin, end);
          passes_.backward(net, id, w, team, share, own, kept);
        } else {
          passes_.forward_saved(net, id, w, team, share, own, nullptr, step);
          losses_.critic_head(seed, id - kCritic, w, begin, end);
          passes_.backward(net, id, w, team, share, own, T(1));
        }
      }
      team.barrier.wait();
      if (last) {
        if (member == 0) {
          losses_.add_metrics(seed, index, step, stage, w);
          team.stop = seed.failure.has_value();
        }
        draw(step + 1);  // the rows arrive during this step's last phase
      }
      optimizer_.update(seed, group.updates[member], now, w, team, own);
      if (last) team.barrier.wait();
    }
  }
  // Steps of which some train fewer networks would be compared with others that do not.
  if (team.pair && member == 0 && joint(first_step) && joint(first_step + steps - 1)) {
    team.pair->faster.took(std::chrono::duration<double>(Clock::now() - start).count(), steps);
  }
}

// The first member's step. The other waits for V'(s'), so that goes out as soon as it can.
template <class T, class Operand>
template <class Draw>
void Steps<T, Operand>::step_value_and_actor(Seed& seed, int index, std::int64_t step,
                                             const Moment& now, Workspace& w, Workspace& critics,
                                             Pair& pair, const Draw& draw) const {
  const Team& team = pair.alone;
  const RowShare all = team.rows(0);
  const StagePlan& plan = team.plans[now.stage];
  Net &value = seed.networks[kValue], &actor = seed.networks[kActor];
  const auto read_value = [&] {
    for (int b = 0; b < team.blocks(); ++b) {
      passes_.forward(setup_.layouts.value, value.trained, w.next_input, team.block(b), w,
                      critics.v_next.data());
      pair.next_value.post(pair.number(step, b));
    }
    passes_.forward(setup_.layouts.value, value.trained, w.input, all, w, w.v.data());
  };
  const auto forward_actor = [&](int b) {
    passes_.forward_saved(actor, kActor, w, team, team.block(b), w, &seed, step);
  };
  passes_.forward_saved(value, kValue, w, team, all, w, nullptr, step);
  if (setup_.config.old_value) read_value();
  for (int b = 0; b < team.blocks(); ++b) {
    const RowShare block = team.block(b);
    pair.q.wait(pair.number(step, b));
    losses_.value_head(seed, w, block.begin(), block.end());
    passes_.backward(value, kValue, w, team, block, w, T(1));
    if (b + 1 < team.blocks()) forward_actor(b);  // until the next rows' Q is there
  }
  optimizer_.update(seed, plan.value.updates[0], now, w, team, w);
  if (!setup_.config.old_value) read_value();

  forward_actor(team.blocks() - 1);
  losses_.read_log_std(seed);
  losses_.actor_head(seed, w, all.begin(), all.end());
  passes_.backward(actor, kActor, w, team, all, w, T(1.0 / (1.0 - setup_.config.actor_dropout)));
  draw(step + 1);
  optimizer_.update(seed, plan.others[0].updates[0], now, w, team, w);

  pair.critic_loss.wait(step + 1);
  losses_.add_metrics(seed, index, step, setup_.config.stages[now.stage], w);
}

// And the other's.
template <class T, class Operand>
template <class Draw>
void Steps<T, Operand>::step_critics(Seed& seed, std::int64_t step, const Moment& now, Workspace& w,
                                     Workspace& value, Pair& pair, const Draw& draw) const {
  const Team& team = pair.alone;
  const RowShare all = team.rows(0);
  const StagePlan& plan = team.plans[now.stage];
  for (int b = 0; b < team.blocks(); ++b) {
    const RowShare block = team.block(b);
    const int begin = block.begin(), end = block.end();
    passes_.least_target(seed, w, block, w);
    std::copy(w.q.data() + begin, w.q.data() + end, value.q.data() + begin);
    pair.q.post(pair.number(step, b));
  }
  const auto critic = [&](int e) -> Net& { return seed.networks[kCritic + e]; };
  for (int e = 0; e < setup_.config.critics; ++e) {
    passes_.forward_saved(critic(e), kCritic + e, w, team, all, w, nullptr, step);
  }
  for (int b = 0; b < team.blocks(); ++b) {
    const RowShare block = team.block(b);
    pair.next_value.wait(pair.number(step, b));
    for (int e = 0; e < setup_.config.critics; ++e) {
      losses_.critic_head(seed, e, w, block.begin(), block.end());
      passes_.backward(critic(e), kCritic + e, w, team, block, w, T(1));
    }
  }
  std::copy_n(w.critic_loss.data(), setup_.config.batch_size, value.critic_loss.data());
  pair.critic_loss.post(step + 1);
  draw(step + 1);
  for (int e = 0; e < setup_.config.critics; ++e) {
    optimizer_.update(seed, plan.others[1 + e].updates[0], now, w, team, w);
  }
}

template class Steps<float>;
template class Steps<double>;
template class Steps<float, BFloat16>;

}  // namespace iql::engine
