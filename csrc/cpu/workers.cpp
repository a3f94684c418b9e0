#include "cpu/workers.h"

#include <algorithm>
#include <exception>
#include <stdexcept>
#include <string>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace iql::cpu {
namespace {

inline void pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

template <class Done>
void spin_until(const Done& done) {
  for (int spin = 0; !done(); ++spin) {
    if (spin < 2000) {
      pause();
    } else {
      std::this_thread::yield();
    }
  }
}

}  // namespace

void Barrier::wait() {
  const int generation = generation_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
    arrived_.store(0, std::memory_order_relaxed);
    generation_.store(generation + 1, std::memory_order_release);
    return;
  }
  spin_until([&] { return generation_.load(std::memory_order_acquire) != generation; });
}

void Signal::wait(std::int64_t number) const {
  spin_until([&] { return number_.load(std::memory_order_acquire) >= number; });
}

Workers::Workers(int n) {
  try {
    for (int index = 1; index < n; ++index) threads_.emplace_back([this, index] { serve(index); });
  } catch (const std::exception& error) {  // a limit of the system, or no memory for a stack
    const std::string started = std::to_string(size());
    end();
    throw std::runtime_error("only " + started + " of " + std::to_string(n) +
                             " threads could be started (" + error.what() + ")");
  }
}

Workers::~Workers() { end(); }

void Workers::end() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    quit_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void Workers::run(const std::function<void(int)>& job) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    job_ = &job;
    running_ = static_cast<int>(threads_.size());
    ++generation_;
  }
  wake_.notify_all();
  job(0);
  std::unique_lock<std::mutex> lock(mutex_);
  done_.wait(lock, [this] { return running_ == 0; });
}

void Workers::serve(int index) {
  int seen = 0;
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    wake_.wait(lock, [&] { return quit_ || generation_ != seen; });
    if (quit_) return;
    seen = generation_;
    const std::function<void(int)>* job = job_;
    lock.unlock();
    (*job)(index);
    lock.lock();
    if (--running_ == 0) done_.notify_one();
  }
}

bool Rounds::begin(int thread, std::int64_t round) {
  std::unique_lock<std::mutex> lock(mutex_);
  done_[thread] = round;
  changed_.notify_all();
  changed_.wait(lock, [&] {
    return round >= count_ || round < *std::min_element(done_.begin(), done_.end()) + kLead;
  });
  if (round >= count_) return false;
  begun_ = std::max(begun_, round + 1);
  return true;
}

void Rounds::stop() {
  const std::lock_guard<std::mutex> lock(mutex_);
  count_ = begun_;
  changed_.notify_all();
}

#if defined(__x86_64__)
FlushDenormals::FlushDenormals() : saved_(_mm_getcsr()) {
  _mm_setcsr(static_cast<unsigned>(saved_) | 0x8040u);  // flush to zero, denormals are zero
}
FlushDenormals::~FlushDenormals() { _mm_setcsr(static_cast<unsigned>(saved_)); }
#elif defined(__aarch64__)
FlushDenormals::FlushDenormals() {
  asm volatile("mrs %0, fpcr" : "=r"(saved_));
  asm volatile("msr fpcr, %0" : : "r"(saved_ | (1ull << 24)));
}
FlushDenormals::~FlushDenormals() { asm volatile("msr fpcr, %0" : : "r"(saved_)); }
#else
FlushDenormals::FlushDenormals() = default;
FlushDenormals::~FlushDenormals() = default;
#endif

}  // namespace iql::cpu
