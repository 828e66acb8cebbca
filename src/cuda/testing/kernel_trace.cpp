#include "cuda/testing/kernel_trace.h"

#include <cuda_runtime_api.h>

#if __has_include(<cupti.h>)
#define KV8_HAS_CUPTI 1
#include <cupti.h>
#endif

#include <cxxabi.h>
#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>

namespace kv8::cuda_testing {

std::string short_kernel_name(std::string_view demangled) {
  // Cut at the first '<' or '(' that does not open "(anonymous namespace)".
  constexpr std::string_view kAnonymous = "(anonymous namespace)";
  std::size_t end = 0;
  while (end < demangled.size() && demangled[end] != '<' && demangled[end] != '(') {
    ++end;
    if (demangled.substr(end).starts_with(kAnonymous)) end += kAnonymous.size();
  }
  std::string_view name = demangled.substr(0, end);
  const std::size_t start = name.find_last_of(" :");
  if (start != std::string_view::npos) name.remove_prefix(start + 1);
  return std::string(name);
}

KernelTrace summarize(std::vector<KernelRecord> records) {
  std::sort(records.begin(), records.end(), [](const KernelRecord& a, const KernelRecord& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  std::map<std::string, TracedKernel> kernels;
  KernelTrace trace;
  std::uint64_t until = 0;  // when all so far had ended
  for (const KernelRecord& record : records) {
    TracedKernel& kernel = kernels[record.name];
    kernel.name = record.name;
    ++kernel.count;
    if (record.end <= until) continue;
    const double ms = static_cast<double>(record.end - std::max(record.begin, until)) * 1e-6;
    kernel.ms += ms;
    trace.busy_ms += ms;
    until = record.end;
  }
  for (auto& [name, kernel] : kernels) trace.kernels.push_back(std::move(kernel));
  return trace;
}

#if KV8_HAS_CUPTI
namespace {

/// What CUPTI has handed over so far. Its callbacks take no argument of ours and may come from a
/// thread of its own.
struct Recording {
  std::mutex mutex;
  std::vector<KernelRecord> records;
};
Recording recording;

constexpr std::size_t kBufferBytes = std::size_t{4} << 20;
constexpr std::size_t kBufferAlignment = 8;

void CUPTIAPI give_buffer(std::uint8_t** buffer, std::size_t* size, std::size_t* max_records) {
  *buffer = static_cast<std::uint8_t*>(std::aligned_alloc(kBufferAlignment, kBufferBytes));
  *size = *buffer == nullptr ? 0 : kBufferBytes;
  *max_records = 0;
}

std::string demangled(const char* name) {
  int status = 0;
  const std::unique_ptr<char, void (*)(void*)> text(
      abi::__cxa_demangle(name, nullptr, nullptr, &status), std::free);
  return short_kernel_name(status == 0 ? text.get() : name);
}

/// libcupti's functions, found when first needed: kv8 runs without the library.
struct Cupti {
  decltype(&cuptiActivityRegisterCallbacks) register_callbacks = nullptr;
  decltype(&cuptiActivityEnable) enable = nullptr;
  decltype(&cuptiActivityDisable) disable = nullptr;
  decltype(&cuptiActivityFlushAll) flush = nullptr;
  decltype(&cuptiActivityGetNextRecord) next = nullptr;
};
Cupti cupti;

void CUPTIAPI take_buffer(CUcontext, std::uint32_t, std::uint8_t* buffer, std::size_t,
                          std::size_t valid) {
  const std::unique_ptr<std::uint8_t, void (*)(void*)> owned(buffer, std::free);
  const std::scoped_lock lock(recording.mutex);
  CUpti_Activity* record = nullptr;
  while (valid > 0 && cupti.next(buffer, valid, &record) == CUPTI_SUCCESS) {
    if (record->kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) {
      const auto* kernel = reinterpret_cast<const CUpti_ActivityKernel10*>(record);
      recording.records.push_back({demangled(kernel->name), kernel->start, kernel->end});
    } else if (record->kind == CUPTI_ACTIVITY_KIND_MEMCPY) {
      const auto* copy = reinterpret_cast<const CUpti_ActivityMemcpy6*>(record);
      recording.records.push_back({"memcpy", copy->start, copy->end});
    } else if (record->kind == CUPTI_ACTIVITY_KIND_MEMSET) {
      const auto* set = reinterpret_cast<const CUpti_ActivityMemset4*>(record);
      recording.records.push_back({"memset", set->start, set->end});
    }
  }
}

constexpr CUpti_ActivityKind kKinds[] = {CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL,
                                         CUPTI_ACTIVITY_KIND_MEMCPY, CUPTI_ACTIVITY_KIND_MEMSET};

}  // namespace

Status load_tracing() {
  if (cupti.next != nullptr) return {};
  void* library = nullptr;
  for (const char* name : {"libcupti.so.13", "libcupti.so"}) {
    if (library == nullptr) library = dlopen(name, RTLD_NOW);
  }
  if (library == nullptr) {
    return unsupported("kernels cannot be timed one by one: libcupti.so.13 was not found");
  }
  Cupti found;
  const auto find = [library](const char* name, auto& function) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
    return function != nullptr;
  };
  const bool complete =
      find("cuptiActivityRegisterCallbacks", found.register_callbacks) &&
      find("cuptiActivityEnable", found.enable) && find("cuptiActivityDisable", found.disable) &&
      find("cuptiActivityFlushAll", found.flush) && find("cuptiActivityGetNextRecord", found.next);
  if (!complete) return unsupported("libcupti.so lacks a function of the activity interface");
  cupti = found;
  if (cupti.register_callbacks(give_buffer, take_buffer) != CUPTI_SUCCESS) {
    cupti = {};
    return unsupported("CUPTI takes no callbacks: another tool may be tracing this program");
  }
  return {};
}

Result<KernelTrace> trace_kernels(const std::function<Status()>& work) {
  KV8_TRY(load_tracing());
  cudaDeviceSynchronize();
  for (const CUpti_ActivityKind kind : kKinds) {
    if (cupti.enable(kind) != CUPTI_SUCCESS) return unsupported("CUPTI cannot record kernels here");
  }
  {
    const std::scoped_lock lock(recording.mutex);
    recording.records.clear();
  }
  const Status status = work();
  cudaDeviceSynchronize();
  cupti.flush(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED);
  for (const CUpti_ActivityKind kind : kKinds) cupti.disable(kind);
  if (!status.ok()) return status.error();

  const std::scoped_lock lock(recording.mutex);
  if (recording.records.empty()) return unsupported("CUPTI recorded no kernels");
  return summarize(std::move(recording.records));
}

#else

Status load_tracing() {
  return unsupported("kernels cannot be timed one by one: kv8 was built without CUPTI's headers");
}

Result<KernelTrace> trace_kernels(const std::function<Status()>&) {
  return Error(load_tracing().error());
}

#endif

}  // namespace kv8::cuda_testing
