#include "engine/losses.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

#include "iql/awr.h"
#include "iql/expectile.h"
#include "iql/gaussian.h"

namespace iql::engine {

template <class T, class Operand>
void Losses<T, Operand>::value_head(const Seed& seed, Workspace& w, int begin, int end) const {
  auto& head = w.heads[kValue];
  const T tau = T(seed.hyper.expectile), B = T(setup_.config.batch_size);
  for (int r = begin; r < end; ++r) {
    const Expectile<T> e = expectile(w.q[r] - head.out[r], tau);
    w.value_loss[r] = e.loss;
    head.d_out[r] = -e.d_u / B;
  }
}

template <class T, class Operand>
void Losses<T, Operand>::actor_head(const Seed& seed, Workspace& w, int begin, int end) const {
  const int O = setup_.config.obs_dim, A = setup_.config.act_dim, P = setup_.kernels.panel;
  const T B = T(setup_.config.batch_size), beta = T(seed.hyper.temperature),
          clip = T(seed.hyper.weight_clip);
  auto& actor = w.heads[kActor];
  std::vector<const T*> actions;  // column by column
  for (int column = O; column < O + A; ++column) {
    const std::size_t panel = std::size_t(column / P) * setup_.config.batch_size;
    actions.push_back(w.input.data() + panel * P + column % P);
  }
  for (int r = begin; r < end; ++r) {
    const T advantage = w.q[r] - w.v[r];
    const T weight = awr_weight(advantage, beta, clip);
    T fit = 0;
    for (int a = 0; a < A; ++a) {
      const T action = actions[a][std::size_t(r) * P];
      const T output = actor.out[r * A + a];
      const GaussianTerm<T> term =
          setup_.config.deterministic_policy
              ? squared_error_term(action, output)
              : gaussian_term(action, output, seed.clipped_log_std[a], seed.inverse_std[a],
                              seed.free_log_std[a] != 0);
      fit += term.log_prob;
      actor.d_out[r * A + a] = -weight * term.d_output / B;
      w.d_log_std[r * A + a] = -weight * term.d_log_std / B;
    }
    w.advantage[r] = advantage;
    w.weight[r] = weight;
    w.clipped[r] = weight >= clip;
    w.actor_loss[r] = -weight * fit;
  }
}

template <class T, class Operand>
void Losses<T, Operand>::read_log_std(Seed& seed) const {
  const Network<T, Operand>& actor = seed.networks[kActor];
  const T* log_std = actor.trained.values + actor.layout->log_std;
  for (int a = 0; a < setup_.config.act_dim; ++a) {
    const T clipped = std::min(std::max(log_std[a], T(kLogStdMin)), T(kLogStdMax));
    seed.clipped_log_std[a] = clipped;
    seed.inverse_std[a] = std::exp(-clipped);
    seed.free_log_std[a] = clipped == log_std[a];
  }
}

template <class T, class Operand>
void Losses<T, Operand>::critic_head(const Seed& seed, int e, Workspace& w, int begin,
                                     int end) const {
  const T B = T(setup_.config.batch_size), discount = T(seed.hyper.discount);
  auto& critic = w.heads[kCritic + e];
  for (int r = begin; r < end; ++r) {
    const T target = w.reward[r] + discount * w.mask[r] * w.v_next[r];
    const T error = critic.out[r] - target;
    w.critic_loss[r] = (e == 0 ? T(0) : w.critic_loss[r]) + error * error;
    critic.d_out[r] = T(2) * error / B;
  }
}

template <class T, class Operand>
void Losses<T, Operand>::add_metrics(Seed& seed, int index, std::int64_t step, const Stage& stage,
                                     const Workspace& w) const {
  const int B = setup_.config.batch_size;
  const T *q = w.q.data(), *v = stage.value ? w.heads[kValue].out.data() : w.v.data();
  const bool with_q = stage.value || stage.actor;
  const auto mean = [B](const auto& column) {
    double sum = 0;
    for (int r = 0; r < B; ++r) sum += column[r];
    return sum / B;
  };
  // Of what the stage does not compute, the columns hold nothing of this step.
  const double value_loss = stage.value ? mean(w.value_loss) : 0,
               actor_loss = stage.actor ? mean(w.actor_loss) : 0,
               critic_loss = stage.critic ? mean(w.critic_loss) : 0;
  MetricSums& sums = seed.sums;
  sums.value_loss += value_loss;
  sums.actor_loss += actor_loss;
  sums.critic_loss += critic_loss;
  if (with_q) {
    sums.value += mean(v);
    sums.q += mean(q);
  }
  if (stage.actor) {
    double squared = 0;
    for (int r = 0; r < B; ++r) squared += double(w.advantage[r]) * w.advantage[r];
    sums.advantage += mean(w.advantage);
    sums.squared_advantage += squared / B;
    sums.weight += mean(w.weight);
    sums.weight_clipped += mean(w.clipped);
    for (int r = 0; r < B; ++r) sums.weight_max = std::max(sums.weight_max, double(w.weight[r]));
  }

  const char* network = !std::isfinite(value_loss)    ? "value"
                        : !std::isfinite(actor_loss)  ? "actor"
                        : !std::isfinite(critic_loss) ? "critic"
                                                      : nullptr;
  if (network != nullptr) {
    const auto [q_min, q_max] = std::minmax_element(q, q + B);
    const auto [v_min, v_max] = std::minmax_element(v, v + B);
    const double known = with_q ? 1 : std::numeric_limits<double>::quiet_NaN();
    seed.failure = Failure{step + 1,       index,          network,       known * *q_min,
                           known * *q_max, known * *v_min, known * *v_max};
  }
}

template class Losses<float>;
template class Losses<double>;
template class Losses<float, BFloat16>;

}  // namespace iql::engine
