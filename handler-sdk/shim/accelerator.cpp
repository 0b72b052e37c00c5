// Functions of libtorch that tch does not expose: the statistics and the cache of the device allocator, the versions that must
// match, and for tests an allocator that fails on demand.
//
// Uses the device-generic API (ATen/DeviceAccelerator.h), so it builds without CUDA headers and works with or without the CUDA
// libraries at run time. Every function catches all exceptions, because C++ exceptions must not cross into Rust.

#include <ATen/DeviceAccelerator.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/CPUAllocator.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/headeronly/version.h>

#include <dlfcn.h>

#include <algorithm>
#include <cstdint>
#include <string>

namespace {

// Mirrors `Status` in src/torch/memory.rs.
enum Status : int32_t { kOk = 0, kNoAccelerator = 1, kError = 2 };

template <typename Body>
int32_t guarded(Body body) noexcept {
  try {
    if (!at::accelerator::getAccelerator(false).has_value()) {
      return kNoAccelerator;
    }
    body();
    return kOk;
  } catch (...) {
    return kError;
  }
}

// The library of the CUDA driver, open while this object exists. Its functions are called without creating a context.
class Driver {
 public:
  Driver() : library_(dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL)) {}
  ~Driver() {
    if (library_ != nullptr) {
      dlclose(library_);
    }
  }
  Driver(const Driver&) = delete;
  Driver& operator=(const Driver&) = delete;

  // Calls a function of the CUDA driver API; these return 0 for success. Returns false without a driver or on failure.
  template <typename... Args>
  bool call(const char* name, Args... args) const {
    void* symbol = library_ == nullptr ? nullptr : dlsym(library_, name);
    return symbol != nullptr && reinterpret_cast<int (*)(Args...)>(symbol)(args...) == 0;
  }

 private:
  void* library_;
};

// Asks before each allocation whether it may succeed. Mirrors `fake_device_operation` in src/torch/fake_device.rs.
using Operation = int32_t (*)(size_t bytes);
enum Answer : int32_t { kWorks = 0, kOutOfMemory = 1 };

// The allocator of the CPU, which fails where a test wants it to.
class FakeDeviceAllocator final : public c10::Allocator {
 public:
  FakeDeviceAllocator(c10::Allocator* base, Operation operation) : base_(base), operation_(operation) {}

  c10::DataPtr allocate(size_t size) override {
    const int32_t answer = operation_(size);
    TORCH_CHECK_WITH(OutOfMemoryError, answer != kOutOfMemory, "CUDA out of memory. Tried to allocate ", size, " bytes (fake device)");
    TORCH_CHECK(answer == kWorks, "CUDA error: an illegal memory access was encountered (fake device)");
    return base_->allocate(size);
  }
  bool is_simple_data_ptr(const c10::DataPtr& data) const override { return base_->is_simple_data_ptr(data); }
  c10::DeleterFnPtr raw_deleter() const override { return base_->raw_deleter(); }
  void copy_data(void* target, const void* source, std::size_t count) const override {
    base_->copy_data(target, source, count);
  }

 private:
  c10::Allocator* base_;
  Operation operation_;
};

uint64_t bytes(int64_t value) { return value < 0 ? 0 : static_cast<uint64_t>(value); }

} // namespace

extern "C" {

// Mirrors `RawStats` in src/torch/memory.rs.
struct runpod_memory_stats {
  uint64_t allocated;
  uint64_t reserved;
  uint64_t peak;
  uint64_t free;
  uint64_t total;
};

int32_t runpod_memory_get(int8_t device, runpod_memory_stats* out) noexcept {
  return guarded([&] {
    constexpr auto all = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    const auto stats = at::accelerator::getDeviceStats(device);
    const auto [free, total] = at::accelerator::getMemoryInfo(device);
    *out = {bytes(stats.allocated_bytes[all].current), bytes(stats.reserved_bytes[all].current),
            bytes(stats.allocated_bytes[all].peak), free, total};
  });
}

int32_t runpod_memory_empty_cache() noexcept {
  return guarded([] { at::accelerator::emptyCache(); });
}

int32_t runpod_memory_reset_peak(int8_t device) noexcept {
  return guarded([&] { at::accelerator::resetPeakStats(device); });
}

// Version of the CUDA runtime that libtorch was built with, as 1000 * major + 10 * minor; 0 without CUDA.
int32_t runpod_cuda_runtime_version() noexcept {
  try {
    const auto& hooks = at::detail::getCUDAHooks();
    return hooks.hasCUDART() ? static_cast<int32_t>(hooks.versionCUDART()) : 0;
  } catch (...) {
    return 0;
  }
}

// Newest version of CUDA that the driver supports, in the same form; 0 without a driver.
int32_t runpod_cuda_driver_version() noexcept {
  int version = 0;
  // This function may be called before cuInit.
  return Driver().call("cuDriverGetVersion", &version) ? version : 0;
}

// Compute capability of the first GPU that is visible to this process, as 10 * major + minor; 0 without a GPU.
int32_t runpod_cuda_capability() noexcept {
  // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR.
  constexpr int kMajor = 75, kMinor = 76;
  const Driver driver;
  int device = 0, major = 0, minor = 0;
  const bool known = driver.call("cuInit", 0U) && driver.call("cuDeviceGet", &device, 0) &&
                     driver.call("cuDeviceGetAttribute", &major, kMajor, device) &&
                     driver.call("cuDeviceGetAttribute", &minor, kMinor, device);
  return known ? 10 * major + minor : 0;
}

// Writes libtorch's description of how its CUDA libraries were compiled: at most `size` bytes, without a terminating zero.
// Returns the number of bytes written; 0 without CUDA.
size_t runpod_cuda_config(char* out, size_t size) noexcept {
  try {
    const auto& hooks = at::detail::getCUDAHooks();
    if (!hooks.hasCUDART()) {
      return 0;
    }
    const std::string config = hooks.showConfig();
    const size_t length = std::min(size, config.size());
    std::copy_n(config.data(), length, out);
    return length;
  } catch (...) {
    return 0;
  }
}

// Makes every allocation on the CPU ask `operation` first. Called at most once.
void runpod_fake_device_install(Operation operation) noexcept {
  // Lives as long as the process, like the allocator that it replaces.
  c10::SetCPUAllocator(new FakeDeviceAllocator(c10::GetCPUAllocator(), operation), 255);
}

// Versions of the libtorch headers that this file was built with and of the libtorch that is loaded. The three highest bytes are
// major, minor and patch.
uint64_t runpod_torch_built_version() noexcept { return TORCH_ABI_VERSION; }
uint64_t runpod_torch_loaded_version() noexcept { return aoti_torch_abi_version(); }

} // extern "C"
