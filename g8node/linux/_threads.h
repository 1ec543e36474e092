/*
 * Work that is done by threads which never need the interpreter, for _batch.c and _spawn.c.
 *
 * It is handed over, queued, performed and put into its outbox; an eventfd tells that there is something in that.
 * All is guarded by one lock, which nobody holds while anything can wait. Who includes this defines THREADS (at
 * most), STACK_BYTES and CAPSULE (a name), and the two functions that are declared here.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* The beginning of whatever is to be done. */
typedef struct work {
    struct work *next;
    struct outbox *to;
    unsigned long long token;
} work;

typedef struct outbox {
    int event;
    long uses; /* the capsule, and all work under way */
    work *first, **last;
} outbox;

/* In a thread. */
static void perform(work *one);

/* Nobody will ask for it any more; called with the lock, and perhaps without the interpreter. */
static void forgotten(work *one);

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t queued = PTHREAD_COND_INITIALIZER;
static work *queue, **queue_end = &queue;
static int threads, idle, waiting; /* so much work is in the queue */

/* Called with the lock. */
static void unuse(outbox *box)
{
    if (--box->uses)
        return;
    for (work *at = box->first, *next; at; at = next) {
        next = at->next;
        forgotten(at);
    }
    close(box->event);
    free(box);
}

static void *thread(void *unused)
{
    (void)unused;
    pthread_mutex_lock(&lock);
    for (;;) {
        while (!queue) {
            idle++;
            pthread_cond_wait(&queued, &lock);
            idle--;
        }
        work *one = queue;
        if (!(queue = one->next))
            queue_end = &queue;
        waiting--;
        pthread_mutex_unlock(&lock);
        perform(one);
        one->next = NULL;
        outbox *to = one->to;
        pthread_mutex_lock(&lock);
        int tell = !to->first;
        *to->last = one;
        to->last = &one->next;
        if (tell)
            eventfd_write(to->event, 1);
        unuse(to);
    }
    return NULL;
}

/* Called with the lock; the errno when there is no thread at all. Threads take no signals. */
static int add_thread(void)
{
    sigset_t all, before;
    pthread_attr_t attributes;
    pthread_t made;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    int error = pthread_create(&made, &attributes, thread, NULL);
    pthread_attr_destroy(&attributes);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!error)
        threads++;
    return threads ? 0 : error;
}

/* Have it done; errno when that is not possible, and it is the caller's again. */
static int hand_over(work *one, outbox *to)
{
    one->to = to;
    pthread_mutex_lock(&lock);
    int error = waiting < idle || threads == THREADS ? 0 : add_thread();
    if (!error) {
        to->uses++;
        waiting++;
        *queue_end = one;
        queue_end = &one->next;
        pthread_cond_signal(&queued);
    }
    pthread_mutex_unlock(&lock);
    return error;
}

/* What was done since the last call, in a list. */
static work *take_done(outbox *box)
{
    eventfd_t count;
    pthread_mutex_lock(&lock);
    work *first = box->first;
    box->first = NULL;
    box->last = &box->first;
    eventfd_read(box->event, &count);
    pthread_mutex_unlock(&lock);
    return first;
}

static outbox *outbox_of(PyObject *capsule)
{
    return PyCapsule_GetPointer(capsule, CAPSULE);
}

static void forget(PyObject *capsule)
{
    pthread_mutex_lock(&lock);
    unuse(outbox_of(capsule));
    pthread_mutex_unlock(&lock);
}

/* make_outbox(): the outbox, and its eventfd. */
static PyObject *make_outbox(PyObject *self, PyObject *args)
{
    (void)self, (void)args;
    outbox *box = calloc(1, sizeof *box);
    if (!box)
        return PyErr_NoMemory();
    box->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (box->event < 0) {
        free(box);
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    box->uses = 1;
    box->last = &box->first;
    PyObject *capsule = PyCapsule_New(box, CAPSULE, forget);
    return capsule ? Py_BuildValue("Ni", capsule, box->event) : NULL;
}
