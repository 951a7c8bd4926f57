// A libcuda.so.1 without a GPU: device memory is memory, and it computes the two kernels of gpus.py.
//
// As a GPU does, it works later: copies and kernels wait in a queue until somebody waits for them. Its clock knows
// only kernels, which take 2 ms each. It is told by its environment:
//
//   FAKE_CUDA_DEVICES   names of the devices, with semicolons; else "Fake Xavier"
//   FAKE_CUDA_FAIL      NAME=CODE: this function fails with this code
//   FAKE_CUDA_LOG       a file that gets a line for each launch, and for what is made and given back
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int Result;
typedef unsigned long long Pointer;

enum {
  kSuccess = 0, kInvalidValue = 1, kOutOfMemory = 2, kNoDevice = 100, kInvalidImage = 200, kInvalidContext = 201,
  kNoBinaryForGpu = 209, kInvalidHandle = 400, kNotFound = 500, kNotReady = 600, kLaunchOutOfResources = 701,
};
enum { kArchitecture = 72, kMostThreads = 1024, kMostSharedBytes = 48 << 10 };
static const size_t kMemoryBytes = (size_t)1 << 30;

static void tell(const char *format, ...) {
  const char *path = getenv("FAKE_CUDA_LOG");
  FILE *file = path == NULL ? NULL : fopen(path, "a");
  if (file == NULL) return;
  va_list values;
  va_start(values, format);
  vfprintf(file, format, values);
  va_end(values);
  fclose(file);
}

static Result told_to_fail(const char *function) {
  const char *told = getenv("FAKE_CUDA_FAIL");
  size_t length = strlen(function);
  if (told == NULL || strncmp(told, function, length) != 0 || told[length] != '=') return kSuccess;
  return atoi(told + length + 1);
}

// The first line of each function: as it is told, or without a context where that needs one.
#define MAY_FAIL                               \
  do {                                         \
    Result code = told_to_fail(__func__);      \
    if (code != kSuccess) return code;         \
  } while (0)
#define NEEDS_CONTEXT                                   \
  do {                                                  \
    MAY_FAIL;                                           \
    if (current == NULL) return kInvalidContext;        \
  } while (0)

static char context;
static _Thread_local void *current;

Result cuInit(unsigned flags) {
  MAY_FAIL;
  return flags == 0 ? kSuccess : kInvalidValue;
}

Result cuDriverGetVersion(int *version) {
  MAY_FAIL;
  *version = 11040;
  return kSuccess;
}

static const char *names(void) {
  const char *told = getenv("FAKE_CUDA_DEVICES");
  return told == NULL ? "Fake Xavier" : told;
}

Result cuDeviceGetCount(int *count) {
  MAY_FAIL;
  *count = *names() != '\0';
  for (const char *at = names(); *at != '\0'; ++at) *count += *at == ';';
  return kSuccess;
}

Result cuDeviceGet(int *device, int number) {
  MAY_FAIL;
  *device = 40 + number;
  return kSuccess;
}

Result cuDeviceGetName(char *name, int size, int device) {
  MAY_FAIL;
  const char *at = names();
  for (int left = device - 40; left > 0; --left) at = strchr(at, ';') + 1;
  snprintf(name, (size_t)size, "%.*s", (int)strcspn(at, ";"), at);
  return kSuccess;
}

Result cuDeviceGetAttribute(int *value, int attribute, int device) {
  MAY_FAIL;
  if (device < 40) return kInvalidValue;
  switch (attribute) {
    case 1: *value = kMostThreads; break;
    case 8: *value = kMostSharedBytes; break;
    case 10: *value = 32; break;
    case 75: *value = kArchitecture / 10; break;
    case 76: *value = kArchitecture % 10; break;
    default: *value = 0;
  }
  return kSuccess;
}

Result cuDeviceTotalMem_v2(size_t *bytes, int device) {
  MAY_FAIL;
  (void)device;
  *bytes = kMemoryBytes;
  return kSuccess;
}

Result cuDevicePrimaryCtxRetain(void **made, int device) {
  MAY_FAIL;
  tell("context of device %d\n", device - 40);
  *made = &context;
  return kSuccess;
}

Result cuCtxSetCurrent(void *chosen) {
  MAY_FAIL;
  if (chosen != &context) return kInvalidContext;
  current = chosen;
  return kSuccess;
}

// What waits for the device: a copy, a kernel, or an event that is to have the time.
struct Event {
  int is_over;
  float time_ms;
};

struct Work {
  void (*kernel)(void **buffers, int64_t elements);
  void *buffers[3];
  int64_t elements;
  void *to;
  const void *from;
  size_t bytes;
  struct Event *event;
  struct Work *next;
};

static struct Work *first, **last = &first;
static float clock_ms;

static void queue(struct Work work) {
  *last = malloc(sizeof work);
  **last = work;
  last = &(*last)->next;
}

static void work_off(void) {
  while (first != NULL) {
    struct Work *work = first;
    if (work->kernel != NULL) {
      work->kernel(work->buffers, work->elements);
      clock_ms += 2;
    } else if (work->event != NULL) {
      work->event->time_ms = clock_ms;
      work->event->is_over = 1;
    } else {
      memcpy(work->to, work->from, work->bytes);
    }
    first = work->next;
    free(work);
  }
  last = &first;
}

Result cuMemGetInfo_v2(size_t *free_bytes, size_t *all_bytes) {
  NEEDS_CONTEXT;
  *free_bytes = *all_bytes = kMemoryBytes;
  return kSuccess;
}

Result cuMemAlloc_v2(Pointer *made, size_t bytes) {
  NEEDS_CONTEXT;
  if (bytes == 0) return kInvalidValue;
  if (bytes > kMemoryBytes) return kOutOfMemory;
  tell("buffer +\n");
  *made = (Pointer)calloc(1, bytes);
  return kSuccess;
}

Result cuMemFree_v2(Pointer buffer) {
  NEEDS_CONTEXT;
  work_off();
  tell("buffer -\n");
  free((void *)buffer);
  return kSuccess;
}

Result cuMemcpyHtoDAsync_v2(Pointer to, const void *from, size_t bytes, void *stream) {
  NEEDS_CONTEXT;
  (void)stream;
  queue((struct Work){.to = (void *)to, .from = from, .bytes = bytes});
  return kSuccess;
}

Result cuMemcpyDtoHAsync_v2(void *to, Pointer from, size_t bytes, void *stream) {
  NEEDS_CONTEXT;
  (void)stream;
  queue((struct Work){.to = to, .from = (const void *)from, .bytes = bytes});
  return kSuccess;
}

Result cuMemcpyDtoDAsync_v2(Pointer to, Pointer from, size_t bytes, void *stream) {
  NEEDS_CONTEXT;
  (void)stream;
  queue((struct Work){.to = (void *)to, .from = (const void *)from, .bytes = bytes});
  return kSuccess;
}

Result cuStreamSynchronize(void *stream) {
  NEEDS_CONTEXT;
  (void)stream;
  work_off();
  return kSuccess;
}

Result cuEventCreate(struct Event **made, unsigned flags) {
  NEEDS_CONTEXT;
  (void)flags;
  tell("event +\n");
  *made = calloc(1, sizeof **made);
  return kSuccess;
}

Result cuEventDestroy_v2(struct Event *event) {
  NEEDS_CONTEXT;
  work_off();
  tell("event -\n");
  free(event);
  return kSuccess;
}

Result cuEventRecord(struct Event *event, void *stream) {
  NEEDS_CONTEXT;
  (void)stream;
  queue((struct Work){.event = event});
  return kSuccess;
}

Result cuEventSynchronize(struct Event *event) {
  NEEDS_CONTEXT;
  (void)event;
  work_off();
  return kSuccess;
}

Result cuEventElapsedTime(float *elapsed_ms, struct Event *start, struct Event *end) {
  NEEDS_CONTEXT;
  if (!start->is_over || !end->is_over) return kNotReady;
  *elapsed_ms = end->time_ms - start->time_ms;
  return kSuccess;
}

// A cubin is an ELF file, with the number of its architecture in the flags.
Result cuModuleLoadData(void **module, const void *code) {
  NEEDS_CONTEXT;
  uint32_t flags;
  memcpy(&flags, (const char *)code + 48, sizeof flags);
  if (memcmp(code, "\177ELF", 4) != 0) return kInvalidImage;
  if ((flags & 0xff) != kArchitecture) return kNoBinaryForGpu;
  tell("module +\n");
  *module = malloc(1);
  return kSuccess;
}

Result cuModuleUnload(void *module) {
  NEEDS_CONTEXT;
  tell("module -\n");
  free(module);
  return kSuccess;
}

// Arguments are in the order of their names: those of add_kernel are ROW, the sum and x, of multiply_kernel the product
// and its factors. How many elements there are comes next.
static void add(void **buffers, int64_t elements) {
  float *row = buffers[0], *sum = buffers[1], *x = buffers[2];
  for (int64_t i = 0; i < elements; ++i) sum[i] = x[i] + row[i % 64];
}

static void multiply(void **buffers, int64_t elements) {
  float *product = buffers[0], *a = buffers[1], *b = buffers[2];
  for (int64_t i = 0; i < elements; ++i) product[i] = a[i] * b[i];
}

static const struct Kernel {
  const char *name;
  void (*compute)(void **buffers, int64_t elements);
} kernels[] = {{"add_kernel", add}, {"multiply_kernel", multiply}};

Result cuModuleGetFunction(const struct Kernel **function, void *module, const char *name) {
  NEEDS_CONTEXT;
  (void)module;
  for (size_t i = 0; i < sizeof kernels / sizeof *kernels; ++i) {
    if (strcmp(kernels[i].name, name) != 0) continue;
    *function = &kernels[i];
    return kSuccess;
  }
  return kNotFound;
}

Result cuFuncSetAttribute(const struct Kernel *function, int attribute, int value) {
  NEEDS_CONTEXT;
  tell("attribute %d of %s is %d\n", attribute, function->name, value);
  return kSuccess;
}

Result cuLaunchKernel(const struct Kernel *function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                      unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared_bytes, void *stream,
                      void **arguments, void **more) {
  NEEDS_CONTEXT;
  if (stream != NULL || more != NULL) return kInvalidValue;
  if (block_x * block_y * block_z > kMostThreads) return kLaunchOutOfResources;
  struct Work work = {.kernel = function->compute};
  int64_t rows;
  for (int i = 0; i < 3; ++i) memcpy(&work.buffers[i], arguments[i], sizeof work.buffers[i]);
  memcpy(&work.elements, arguments[3], sizeof work.elements);
  memcpy(&rows, arguments[4], sizeof rows);
  tell("launch %s, grid %u %u %u, block %u %u %u, shared %u, %lld elements in %lld rows\n", function->name, grid_x,
       grid_y, grid_z, block_x, block_y, block_z, shared_bytes, (long long)work.elements, (long long)rows);
  queue(work);
  return kSuccess;
}

Result cuGetErrorName(Result code, const char **name) {
  switch (code) {
    case kOutOfMemory: *name = "CUDA_ERROR_OUT_OF_MEMORY"; break;
    case kNoDevice: *name = "CUDA_ERROR_NO_DEVICE"; break;
    case kInvalidImage: *name = "CUDA_ERROR_INVALID_IMAGE"; break;
    case kInvalidContext: *name = "CUDA_ERROR_INVALID_CONTEXT"; break;
    case kNoBinaryForGpu: *name = "CUDA_ERROR_NO_BINARY_FOR_GPU"; break;
    case kNotFound: *name = "CUDA_ERROR_NOT_FOUND"; break;
    case kNotReady: *name = "CUDA_ERROR_NOT_READY"; break;
    case kLaunchOutOfResources: *name = "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES"; break;
    default: return kInvalidValue;
  }
  return kSuccess;
}
