/* A preloaded library that hides instructions from the process it is loaded into: it runs at full speed and believes that the
 * processor lacks them.
 *
 * Libraries ask in two ways, and both are answered here.
 *
 * - CPUID. Linux can make it fault (arch_prctl ARCH_SET_CPUID, see arch_prctl(2); a flag of a thread that its threads and forks
 *   inherit, and that exec clears, after which this library is loaded again). The handler runs the real one and clears bits.
 * - /proc/cpuinfo: another file is opened instead.
 *
 * HIDE is a list of groups, in which `amx`, `vnni` and `avx512` count; HIDE_CPUINFO the other file. hide.py sets both.
 *
 * Not hidden: what was asked before this library's constructor ran (the dynamic loader, which picks glibc's string functions),
 * XGETBV, and the instructions themselves, which still run where a program does not ask.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define ARCH_SET_CPUID 0x1012
#define BIT(n) (1u << (n))

enum { EAX, EBX, ECX, EDX };

/* Feature bits of CPUID's leaf 7, the one that tells of these instructions (Intel 64 and IA-32 Architectures Software Developer's
 * Manual, volume 2A, CPUID). BF16, FP16 and VP2INTERSECT need AVX512F and go with it; 4VNNIW and 4FMAPS are Xeon Phi's. */
static const struct {
  const char *group;
  uint32_t subleaf;
  int reg;
  uint32_t bits;
} HIDDEN[] = {
    {"avx512", 0, EBX, BIT(16) | BIT(17) | BIT(21) | BIT(26)}, /* F DQ IFMA PF */
    {"avx512", 0, EBX, BIT(27) | BIT(28) | BIT(30) | BIT(31)}, /* ER CD BW VL */
    {"avx512", 0, ECX, BIT(1) | BIT(6) | BIT(11)},             /* VBMI VBMI2 VNNI */
    {"avx512", 0, ECX, BIT(12) | BIT(14)},                     /* BITALG VPOPCNTDQ */
    {"avx512", 0, EDX, BIT(2) | BIT(3) | BIT(8) | BIT(23)},    /* 4VNNIW 4FMAPS VP2INTERSECT FP16 */
    {"avx512", 1, EAX, BIT(5)},                                /* BF16 */
    {"avx512", 1, EDX, BIT(19)},                               /* AVX10 */
    {"vnni", 0, ECX, BIT(11)},                                 /* AVX512_VNNI */
    {"vnni", 0, EDX, BIT(2)},                                  /* AVX512_4VNNIW */
    {"vnni", 1, EAX, BIT(4)},                                  /* AVX_VNNI */
    {"vnni", 1, EDX, BIT(4) | BIT(10)},                        /* AVX_VNNI_INT8 AVX_VNNI_INT16 */
    {"amx", 0, EDX, BIT(22) | BIT(24) | BIT(25)},              /* BF16 TILE INT8 */
    {"amx", 1, EAX, BIT(21)},                                  /* FP16 */
    {"amx", 1, EDX, BIT(8)},                                   /* COMPLEX */
};
enum { COUNT = sizeof HIDDEN / sizeof *HIDDEN };

typedef int (*sigaction_function)(int, const struct sigaction *, struct sigaction *);
typedef int (*open_function)(const char *, int, ...);

static int hiding;
static int wanted[COUNT];
static const char *cpuinfo;
static struct sigaction next; /* whoever else wants SIGSEGV */

static int real_sigaction(int number, const struct sigaction *action, struct sigaction *old) {
  return ((sigaction_function)dlsym(RTLD_NEXT, "sigaction"))(number, action, old);
}

static long faulting(int on) { return syscall(SYS_arch_prctl, ARCH_SET_CPUID, !on); }

static void cpuid(greg_t *saved) {
  uint32_t r[4], leaf = saved[REG_RAX], subleaf = saved[REG_RCX];
  faulting(0);
  __asm__ volatile("cpuid" : "=a"(r[EAX]), "=b"(r[EBX]), "=c"(r[ECX]), "=d"(r[EDX]) : "a"(leaf), "c"(subleaf));
  faulting(1);
  for (int i = 0; i < COUNT; i++)
    if (wanted[i] && leaf == 7 && subleaf == HIDDEN[i].subleaf) r[HIDDEN[i].reg] &= ~HIDDEN[i].bits;
  saved[REG_RAX] = r[EAX], saved[REG_RBX] = r[EBX], saved[REG_RCX] = r[ECX], saved[REG_RDX] = r[EDX];
  saved[REG_RIP] += 2;
}

static void on_segv(int number, siginfo_t *info, void *context) {
  greg_t *saved = ((ucontext_t *)context)->uc_mcontext.gregs;
  /* SI_KERNEL, a general protection fault: the instruction was fetched, so it can be read. */
  if (info->si_code == SI_KERNEL && !memcmp((const void *)saved[REG_RIP], "\x0f\xa2", 2)) {
    cpuid(saved);
  } else if (next.sa_flags & SA_SIGINFO) {
    next.sa_sigaction(number, info, context);
  } else if (next.sa_handler != SIG_DFL && next.sa_handler != SIG_IGN) {
    next.sa_handler(number);
  } else { /* crash as usual: the instruction faults again; what another process sent has to be sent again */
    real_sigaction(SIGSEGV, &next, NULL);
    if (info->si_code <= 0) raise(SIGSEGV);
  }
}

__attribute__((constructor)) static void start(void) {
  const char *groups = getenv("HIDE");
  if (!groups) return;
  for (int i = 0; i < COUNT; i++) wanted[i] = strstr(groups, HIDDEN[i].group) != NULL;
  cpuinfo = getenv("HIDE_CPUINFO");
  struct sigaction mine = {.sa_sigaction = on_segv, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};
  if (real_sigaction(SIGSEGV, &mine, &next) || faulting(1)) {
    fprintf(stderr, "error: the kernel does not let CPUID fault (arch_prctl: %s)\n", strerror(errno));
    _exit(2);
  }
  hiding = 1;
}

/* Handlers that are installed later (a JVM's, faulthandler's) get what is left. */
int sigaction(int number, const struct sigaction *action, struct sigaction *old) {
  if (number != SIGSEGV || !hiding) return real_sigaction(number, action, old);
  struct sigaction before = next;
  if (action) next = *action;
  if (old) *old = before;
  return 0;
}

/* A compiler's; glibc's own does not go through the name sigaction. */
sighandler_t signal(int number, sighandler_t handler) {
  struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART}, old;
  return sigaction(number, &action, &old) ? SIG_ERR : old.sa_handler;
}

static int opened(const char *name, const char *path, int flags, mode_t mode) {
  if (cpuinfo && !strcmp(path, "/proc/cpuinfo")) path = cpuinfo;
  return ((open_function)dlsym(RTLD_NEXT, name))(path, flags, mode);
}

#define OPEN(name)                             \
  int name(const char *path, int flags, ...) { \
    va_list rest;                              \
    va_start(rest, flags);                     \
    mode_t mode = va_arg(rest, mode_t);        \
    va_end(rest);                              \
    return opened(#name, path, flags, mode);   \
  }
OPEN(open)
OPEN(open64)
