# Builds the C++ core for 64-bit ARM on another machine and runs its tests under QEMU (Debian's
# g++-aarch64-linux-gnu and qemu-user):
#
#   cmake -S . -B build/aarch64 --toolchain tools/aarch64.cmake && cmake --build build/aarch64
#   ctest --test-dir build/aarch64 -E cuda   # the emulator of CUDA crawls under QEMU
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_CROSSCOMPILING_EMULATOR "qemu-aarch64;-L;/usr/aarch64-linux-gnu")
