/* What the libraries show to their callers. */
#pragma once

#if defined(_WIN32)
#define DG_API __declspec(dllexport)
#else
#define DG_API __attribute__((visibility("default")))
#endif
