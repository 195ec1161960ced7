/* What the native operators take of their caller: threads. */
#pragma once
#include <stddef.h>

#include "api.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Calls task(context, i) once for each i in 0 … count-1, by as many threads as it likes, and returns when all are done. */
typedef struct {
  void (*run)(void* self, void (*task)(void* context, size_t i), void* context, size_t count);
  void* self;
} dg_parallel;

#ifdef __cplusplus
}
#endif
