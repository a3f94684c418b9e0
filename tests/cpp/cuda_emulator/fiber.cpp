#include "fiber.h"

#include <cstdint>
#include <cstdlib>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#define IQL_FIBER_ASAN 1
constexpr std::size_t kStackSize = 256 << 10;  // the sanitizer surrounds every local variable
#else
constexpr std::size_t kStackSize = 64 << 10;
#endif

#if defined(__x86_64__) && defined(__linux__)
// swapcontext asks the kernel for the signal mask every time, and takes most of an emulated warp's
// time. Saves what the System V ABI lets a callee change, then goes on with another stack.
extern "C" void iql_switch_stack(void** save, void* load);
asm(R"(
.text
.globl iql_switch_stack
.hidden iql_switch_stack
.type iql_switch_stack, @function
iql_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size iql_switch_stack, .-iql_switch_stack
)");
#define IQL_FIBER_ASSEMBLY 1
#else
#include <ucontext.h>
#endif

namespace emulator {
namespace {
Fiber* entering = nullptr;  // whom the entry function of a new stack belongs to
}

struct Fiber::Context {
  // Uninitialised: thousands of stacks are never touched beyond their first page.
  std::unique_ptr<char[]> stack{new char[kStackSize]};
#ifdef IQL_FIBER_ASSEMBLY
  void* own = nullptr;
  void* scheduler = nullptr;
#else
  ucontext_t own{}, scheduler{};
#endif
#ifdef IQL_FIBER_ASAN
  void* scheduler_fake = nullptr;
  void* own_fake = nullptr;
  const void* scheduler_bottom = nullptr;
  std::size_t scheduler_size = 0;
#endif

  void to_fiber() {
#ifdef IQL_FIBER_ASAN
    __sanitizer_start_switch_fiber(&scheduler_fake, stack.get(), kStackSize);
#endif
#ifdef IQL_FIBER_ASSEMBLY
    iql_switch_stack(&scheduler, own);
#else
    swapcontext(&scheduler, &own);
#endif
#ifdef IQL_FIBER_ASAN
    __sanitizer_finish_switch_fiber(scheduler_fake, nullptr, nullptr);
#endif
  }

  void to_scheduler(bool for_good) {
    (void)for_good;
#ifdef IQL_FIBER_ASAN
    __sanitizer_start_switch_fiber(for_good ? nullptr : &own_fake, scheduler_bottom,
                                   scheduler_size);
#endif
#ifdef IQL_FIBER_ASSEMBLY
    iql_switch_stack(&own, scheduler);
#else
    swapcontext(&own, &scheduler);
#endif
    arrived();
  }

  void arrived() {
#ifdef IQL_FIBER_ASAN
    __sanitizer_finish_switch_fiber(own_fake, &scheduler_bottom, &scheduler_size);
#endif
  }
};

Fiber::Fiber() : context_(std::make_unique<Context>()) {}
Fiber::~Fiber() = default;

void Fiber::enter(Fiber* fiber) {
  fiber->context_->arrived();
  (*fiber->body_)();
  fiber->ended_ = true;
  fiber->context_->to_scheduler(true);
}

void Fiber::start(const std::function<void()>* body) {
  body_ = body;
  ended_ = false;
  void (*const entry)() = [] { enter(entering); };
#ifdef IQL_FIBER_ASSEMBLY
  // As iql_switch_stack leaves a stack: six registers below the address to return to; there, the
  // stack pointer must be 8 past a multiple of 16.
  auto top =
      reinterpret_cast<std::uintptr_t>(context_->stack.get() + kStackSize) & ~std::uintptr_t{15};
  void** frame = reinterpret_cast<void**>(top) - 2;
  frame[0] = reinterpret_cast<void*>(entry);
  frame[1] = nullptr;
  for (int i = 1; i <= 6; ++i) frame[-i] = nullptr;
  context_->own = frame - 6;
#else
  getcontext(&context_->own);
  context_->own.uc_stack.ss_sp = context_->stack.get();
  context_->own.uc_stack.ss_size = kStackSize;
  context_->own.uc_link = nullptr;
  makecontext(&context_->own, entry, 0);
#endif
#ifdef IQL_FIBER_ASAN
  context_->own_fake = nullptr;
#endif
}

void Fiber::resume() {
  entering = this;
  context_->to_fiber();
}

void Fiber::suspend() { context_->to_scheduler(false); }

}  // namespace emulator
