// Which of two ways to do the same work is the faster one here and now.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

namespace iql::cpu {

// Both ways are tried in turn, twice each, so that what other programs do meanwhile falls on both,
// and the faster is kept for a while. The longer the same one has won, the longer it is kept.
class FasterWay {
 public:
  static constexpr double kTrial = 0.1;                // seconds, at least
  static constexpr double kFirstKept = 2, kKept = 32;  // seconds, at first and at most

  // In which way, 0 or 1, the next piece of work is to be done.
  int way() const { return trial_ < kTrials ? trial_ % 2 : winner_; }

  // What a piece of so many units of work took that was done in that way.
  void took(double seconds, std::int64_t units) {
    seconds_ += seconds;
    units_ += units;
    if (seconds_ < (trial_ < kTrials ? kTrial : kept_)) return;
    if (trial_ == kTrials) {
      trial_ = 0;
      best_[0] = best_[1] = std::numeric_limits<double>::infinity();
    } else {
      best_[trial_ % 2] = std::min(best_[trial_ % 2], seconds_ / double(units_));
      if (++trial_ == kTrials) decide();
    }
    seconds_ = 0;
    units_ = 0;
  }

 private:
  static constexpr int kTrials = 4;

  void decide() {
    const int winner = best_[1] < best_[0];
    kept_ = winner == winner_ ? std::min(2 * kept_, kKept) : kFirstKept;
    winner_ = winner;
  }

  int trial_ = 0;    // the trial that goes on, or kTrials while the winner is kept
  int winner_ = -1;  // of the last trials
  double kept_ = kFirstKept;
  double best_[2] = {std::numeric_limits<double>::infinity(),
                     std::numeric_limits<double>::infinity()};  // seconds a unit
  double seconds_ = 0;                                          // of this trial, or of this keep
  std::int64_t units_ = 0;
};

}  // namespace iql::cpu
