/* Threads that never need the interpreter, of _batch.c and _spawn.c. */
#include <pthread.h>
#include <signal.h>
#include <stddef.h>

/* One more, which nobody waits for and which takes no signals; errno. */
static int begin_thread(void *(*run)(void *), size_t stack_bytes)
{
    sigset_t all, before;
    pthread_attr_t attributes;
    pthread_t made;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, stack_bytes);
    int error = pthread_create(&made, &attributes, run, NULL);
    pthread_attr_destroy(&attributes);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}
