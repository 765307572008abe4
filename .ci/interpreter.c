/* An interpreter that has the runtime of a sanitizer in it, and its options.

   LD_PRELOAD and variables would reach each `sh` and `strace` that a test starts, and no child
   that gets an environment of its own. */

#include <Python.h>
#include <stdio.h>
#include <sys/prctl.h>

/* A file of reports for each process, as nobody may read what it prints.  An abort, as tests
   expect exit codes; and those of tests are not changed by what is only reported.  NumPy may
   ask for more memory than there is.  SIGBUS is what some tests expect. */
#define COMMON                                                                                 \
    "log_path=" REPORTS "/report:exitcode=0:abort_on_error=1:allocator_may_return_null=1"      \
    ":handle_sigbus=0"

const char *__asan_default_options(void)
{
    return COMMON ":detect_stack_use_after_return=1:strict_string_checks=1"
                  ":detect_invalid_pointer_pairs=2";
}

const char *__ubsan_default_options(void)
{
    return COMMON ":print_stacktrace=1";
}

/* Children that a thread forks go on with threads.  What Python does between two calls of
   the C library is not seen, but for its locks. */
const char *__tsan_default_options(void)
{
    return COMMON ":die_after_fork=0:ignore_noninstrumented_modules=1:history_size=4";
}

/* Under strace, or where this has become another user, the search for leaks cannot stop the
   threads, and would end the process. */
int __lsan_is_turned_off(void)
{
    char line[256];
    int tracer = 0;
    FILE *status = fopen("/proc/self/status", "r");
    if (status == NULL)
        return 1;
    while (fgets(line, sizeof(line), status) && sscanf(line, "TracerPid: %d", &tracer) != 1)
        ;
    fclose(status);
    return tracer != 0 || prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) != 1;
}

int main(int argc, char **argv)
{
    /* Python's own allocator takes large pieces, within which nothing would be noticed. */
    PyPreConfig config;
    PyPreConfig_InitPythonConfig(&config);
    config.allocator = PYMEM_ALLOCATOR_MALLOC;
    PyStatus status = Py_PreInitializeFromBytesArgs(&config, argc, argv);
    if (PyStatus_Exception(status))
        Py_ExitStatusException(status);
    return Py_BytesMain(argc, argv);
}
