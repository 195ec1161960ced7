/* A plain C interface to ExecuTorch with XNNPACK: one program, its methods by name, tensors as they lie in memory.
 *
 * Functions that return an int give a negative number on failure, those that return a pointer NULL; dg_error() says why in one
 * line. A model must not be used by two threads at once; the thread pool is one for the whole process. */
#pragma once
#include <stdint.h>

#include "api.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { DG_UINT8 = 0, DG_INT8 = 1, DG_INT16 = 2, DG_INT32 = 3, DG_INT64 = 4, DG_FLOAT32 = 6, DG_FLOAT64 = 7, DG_BOOL = 11 };
enum { DG_MAX_RANK = 8 };

typedef struct dg_model dg_model;

/* Row-major and contiguous; data belongs to whoever made it. */
typedef struct {
  void* data;
  int32_t dtype;
  int32_t rank;
  int32_t shape[DG_MAX_RANK];
} dg_tensor;

/* Maps a .pte and checks it. threads: 0 leaves the pool alone. Weights are packed once for all methods of the model; with
 * `packed`, a path of up to 255 bytes, into that file, or read from it if it is whole; with NULL into memory. */
DG_API dg_model* dg_open(const char* path, int threads, const char* packed);
DG_API void dg_close(dg_model* model);

/* 1 when the program has the method, else 0. */
DG_API int dg_has(dg_model* model, const char* method);
DG_API int dg_load(dg_model* model, const char* method);

/* Type and largest shape of an input; returns the number of inputs. */
DG_API int dg_input(dg_model* model, const char* method, int index, dg_tensor* input);

/* Runs a method; returns how many outputs there are, of which up to `capacity` are described. Their data is valid until
 * any method of the model runs, or the model is closed. */
DG_API int dg_run(dg_model* model, const char* method, const dg_tensor* inputs, int count, dg_tensor* outputs, int capacity);

/* XNNPACK keeps a file of packed weights locked for as long as it is mapped, so that a second process could not map it. This
 * lets go of the locks of this process on it; returns how many there were: 0 when XNNPACK gave up writing the file. */
DG_API int dg_unlock(const char* packed);

/* Size of the thread pool. */
DG_API int dg_threads(void);

/* The last failure of the calling thread. */
DG_API const char* dg_error(void);

#ifdef __cplusplus
}
#endif
