/* What the worker needs of NVIDIA's management library, without a GPU. The file named by FAKE_NVML is read at every call;
 * a figure that it does not have is "not supported", as on a card that does not give it. Its lines:
 *
 *   count 2              GPUs listed
 *   0.uuid GPU-5d        figures of GPU 0: uuid, name, utilization (percent), memory_used, memory_total (bytes),
 *   0.power 71500        power (milliwatts), temperature (Celsius), throttle (bits), ecc (errors),
 *   0.xid 31             xid (number of its last critical error) and xids (how many there were)
 *   hang 1               every call from now on blocks for ever
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TIMEOUT = 10 };
enum { MAX_GPUS = 8, XID_CRITICAL_ERROR = 8 };

typedef struct { int index; } Gpu;
typedef struct { Gpu *gpu; unsigned long long delivered; } EventSet;
typedef struct { Gpu *gpu; unsigned long long type, data; unsigned instance, compute_instance; } EventData;
typedef struct { unsigned gpu, memory; } Utilization;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } Memory;

static Gpu gpus[MAX_GPUS] = {{0}, {1}, {2}, {3}, {4}, {5}, {6}, {7}};

/* Writes the value of `key` into `value`; 0 when there is none. */
static int text(const char *key, char *value, size_t size) {
    const char *path = getenv("FAKE_NVML");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[256];
    int found = 0;
    while (file && !found && fgets(line, sizeof line, file)) {
        char *rest = strchr(line, ' ');
        if (!rest) continue;
        *rest++ = 0;
        rest[strcspn(rest, "\n")] = 0;
        found = strcmp(line, key) == 0 && snprintf(value, size, "%s", rest) >= 0;
    }
    if (file) fclose(file);
    return found;
}

static int number(const char *key, unsigned long long *value) {
    char found[64];
    if (!text(key, found, sizeof found)) return 0;
    *value = strtoull(found, NULL, 0);
    return 1;
}

static int figure_text(Gpu *gpu, const char *name, char *value, size_t size) {
    char key[64];
    snprintf(key, sizeof key, "%d.%s", gpu->index, name);
    return text(key, value, size) ? SUCCESS : NOT_SUPPORTED;
}

static int figure(Gpu *gpu, const char *name, unsigned long long *value) {
    char key[64];
    unsigned long long hang = 0;
    if (number("hang", &hang) && hang) for (;;) pause();
    snprintf(key, sizeof key, "%d.%s", gpu->index, name);
    return number(key, value) ? SUCCESS : NOT_SUPPORTED;
}

static int small_figure(Gpu *gpu, const char *name, unsigned *value) {
    unsigned long long found;
    int status = figure(gpu, name, &found);
    if (status == SUCCESS) *value = (unsigned)found;
    return status;
}

int nvmlInit_v2(void) { return SUCCESS; }
int nvmlShutdown(void) { return SUCCESS; }

int nvmlDeviceGetCount_v2(unsigned *count) {
    unsigned long long found = 0;
    number("count", &found);
    *count = found < MAX_GPUS ? (unsigned)found : MAX_GPUS;
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Gpu **gpu) {
    unsigned count;
    nvmlDeviceGetCount_v2(&count);
    if (index >= count) return INVALID_ARGUMENT;
    *gpu = &gpus[index];
    return SUCCESS;
}

int nvmlDeviceGetUUID(Gpu *gpu, char *uuid, unsigned size) { return figure_text(gpu, "uuid", uuid, size); }
int nvmlDeviceGetName(Gpu *gpu, char *name, unsigned size) { return figure_text(gpu, "name", name, size); }

int nvmlDeviceGetHandleByUUID(const char *wanted, Gpu **gpu) {
    char uuid[96];
    for (unsigned index = 0; nvmlDeviceGetHandleByIndex_v2(index, gpu) == SUCCESS; index++) {
        if (nvmlDeviceGetUUID(*gpu, uuid, sizeof uuid) == SUCCESS && strcmp(uuid, wanted) == 0) return SUCCESS;
    }
    return NOT_FOUND;
}

int nvmlDeviceGetUtilizationRates(Gpu *gpu, Utilization *rates) {
    rates->memory = 0;
    return small_figure(gpu, "utilization", &rates->gpu);
}

int nvmlDeviceGetMemoryInfo_v2(Gpu *gpu, Memory *memory) {
    if (memory->version != (sizeof *memory | 2 << 24)) return INVALID_ARGUMENT;
    int status = figure(gpu, "memory_used", &memory->used);
    return status == SUCCESS ? figure(gpu, "memory_total", &memory->total) : status;
}

int nvmlDeviceGetPowerUsage(Gpu *gpu, unsigned *milliwatts) { return small_figure(gpu, "power", milliwatts); }

int nvmlDeviceGetTemperature(Gpu *gpu, int sensor, unsigned *celsius) {
    return sensor == 0 ? small_figure(gpu, "temperature", celsius) : INVALID_ARGUMENT;
}

int nvmlDeviceGetCurrentClocksThrottleReasons(Gpu *gpu, unsigned long long *reasons) {
    return figure(gpu, "throttle", reasons);
}

int nvmlDeviceGetTotalEccErrors(Gpu *gpu, int type, int counter, unsigned long long *count) {
    const int uncorrected = 1, since_the_driver_was_loaded = 0;
    if (type != uncorrected || counter != since_the_driver_was_loaded) return INVALID_ARGUMENT;
    return figure(gpu, "ecc", count);
}

int nvmlEventSetCreate(EventSet **set) {
    *set = calloc(1, sizeof **set);
    return SUCCESS;
}

int nvmlDeviceRegisterEvents(Gpu *gpu, unsigned long long types, EventSet *set) {
    unsigned long long xids;
    if (types != XID_CRITICAL_ERROR || figure(gpu, "xids", &xids) != SUCCESS) return NOT_SUPPORTED;
    set->gpu = gpu;
    return SUCCESS;
}

int nvmlEventSetWait_v2(EventSet *set, EventData *event, unsigned milliseconds) {
    unsigned long long xids = 0;
    (void)milliseconds;
    if (figure(set->gpu, "xids", &xids) != SUCCESS || set->delivered >= xids) return TIMEOUT;
    memset(event, 0, sizeof *event);
    event->gpu = set->gpu;
    event->type = XID_CRITICAL_ERROR;
    figure(set->gpu, "xid", &event->data);
    set->delivered++;
    return SUCCESS;
}

int nvmlEventSetFree(EventSet *set) {
    free(set);
    return SUCCESS;
}
