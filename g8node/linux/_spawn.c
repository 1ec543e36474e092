/*
 * Starts processes in threads that never need the interpreter: see linux/spawn.py for what and why.
 *
 * A request is copied, queued and answered with (token, pid, errno) into its spawner's list; an eventfd tells
 * that there is something in it. All is guarded by one lock, which nobody holds while anything can wait.
 * Limited API of 3.11, so that one file serves 3.11 and 3.13.
 */
#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define THREADS 4
#define STACK_BYTES (256 << 10)
#define PATH_BYTES 4096
#define NULL_FD -3
#define CAPSULE "g8node.linux._spawn.spawner"

typedef struct answer {
    struct answer *next;
    unsigned long long token;
    pid_t pid;
    int error;
} answer;

typedef struct {
    int event;
    long uses; /* the capsule, and each request under way */
    answer *first, **last;
} spawner;

typedef struct request {
    struct request *next;
    spawner *to;
    answer *reply;
    char **argv, **env, *search;
    int stdio[3], keep_fds, keep_count, *keep;
} request;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t work = PTHREAD_COND_INITIALIZER;
static request *queue, **queue_end = &queue;
static int threads, idle, waiting; /* `waiting` requests are in the queue */

/* Called with the lock. */
static void unuse(spawner *one)
{
    if (--one->uses)
        return;
    for (answer *at = one->first, *next; at; at = next) {
        next = at->next;
        free(at);
    }
    close(one->event);
    free(one);
}

static void free_request(request *one)
{
    free(one->reply);
    free(one->argv);
    free(one->env);
    free(one->search);
    free(one->keep);
    free(one);
}

/* Whether a regular executable file lies there; else errno in *failure unless it just is not there. */
static int executable(const char *path, struct stat *found, int *failure)
{
    if (stat(path, found)) {
        if (errno != ENOENT && errno != ENOTDIR)
            *failure = errno;
        return 0;
    }
    if (S_ISREG(found->st_mode) && found->st_mode & 0111)
        return 1;
    *failure = EACCES;
    return 0;
}

/* EXDEV: what lies there might make the exec wait for a file system of ours, or is a script. */
static int refusal(const char *path, const struct stat *found)
{
    struct stat root;
    char head[2];
    if (stat("/", &root) || root.st_dev != found->st_dev)
        return EXDEV;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno;
    ssize_t got = read(fd, head, 2);
    close(fd);
    return got == 2 && head[0] == '#' && head[1] == '!' ? EXDEV : 0;
}

/* Look `name` up in the folders of `search`; the errno. */
static int look_up(const char *name, const char *search, char *path)
{
    int failure = ENOENT;
    for (const char *at = search, *end; at; at = *end ? end + 1 : NULL) {
        struct stat found;
        end = strchrnul(at, ':');
        if (snprintf(path, PATH_BYTES, "%s%.*s/%s", *at == '/' ? "" : "/", (int)(end - at), at, name) >= PATH_BYTES)
            return ENAMETOOLONG;
        if (executable(path, &found, &failure))
            return refusal(path, &found);
    }
    return failure;
}

static int set_attributes(posix_spawnattr_t *attributes)
{
    sigset_t none, ignored;
    sigemptyset(&none);
    sigemptyset(&ignored);
    sigaddset(&ignored, SIGPIPE); /* the two that Python ignores */
    sigaddset(&ignored, SIGXFSZ);
    int error = posix_spawnattr_setsigdefault(attributes, &ignored);
    error = error ? error : posix_spawnattr_setsigmask(attributes, &none);
    return error ? error
                 : posix_spawnattr_setflags(attributes,
                                            POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSID);
}

/* `copies` gets what must be closed afterwards. */
static int set_descriptors(posix_spawn_file_actions_t *actions, const request *one, int *copies)
{
    int error = 0, highest = 2;
    for (int target = 0; target < 3 && !error; target++) {
        int source = one->stdio[target];
        if (source == NULL_FD) {
            error = posix_spawn_file_actions_addopen(actions, target, "/dev/null", target ? O_WRONLY : O_RDONLY, 0);
            continue;
        }
        if (source < 3 && source != target) { /* nobody may take its place first */
            source = copies[target] = fcntl(source, F_DUPFD_CLOEXEC, 3);
            if (source < 0)
                return errno;
        }
        error = posix_spawn_file_actions_adddup2(actions, source, target);
    }
    for (int i = 0; i < one->keep_count && !error; i++) {
        error = posix_spawn_file_actions_adddup2(actions, one->keep[i], one->keep[i]); /* takes close-on-exec off */
        highest = one->keep[i] > highest ? one->keep[i] : highest;
    }
    error = error ? error : posix_spawn_file_actions_addchdir_np(actions, "/");
    /* All of ours are close-on-exec already; this is for what a library may have left open. */
    return error ? error : posix_spawn_file_actions_addclosefrom_np(actions, highest + 1);
}

static int start(request *one, pid_t *pid)
{
    char path[PATH_BYTES];
    const char *program = one->argv[0];
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    int error, copies[3] = {-1, -1, -1};
    if (one->search) {
        if ((error = look_up(program, one->search, path)))
            return error;
        program = one->argv[0] = path;
    }
    if ((error = posix_spawn_file_actions_init(&actions)))
        return error;
    if (!(error = posix_spawnattr_init(&attributes))) {
        error = set_attributes(&attributes);
        error = error ? error : set_descriptors(&actions, one, copies);
        error = error ? error : posix_spawn(pid, program, &actions, &attributes, one->argv, one->env);
        posix_spawnattr_destroy(&attributes);
    }
    posix_spawn_file_actions_destroy(&actions);
    for (int i = 0; i < 3; i++)
        if (copies[i] >= 0)
            close(copies[i]);
    return error;
}

static void serve(request *one)
{
    answer *reply = one->reply;
    reply->error = start(one, &reply->pid);
    if (!reply->error || !one->keep_fds)
        for (int i = 0; i < 3; i++)
            if (one->stdio[i] != NULL_FD)
                close(one->stdio[i]); /* may wait: another may hold the pipe's mutex */
    one->reply = NULL;
    spawner *to = one->to;
    pthread_mutex_lock(&lock);
    int tell = !to->first;
    *to->last = reply;
    to->last = &reply->next;
    if (tell)
        eventfd_write(to->event, 1);
    unuse(to);
    pthread_mutex_unlock(&lock);
    free_request(one);
}

static void *thread(void *unused)
{
    (void)unused;
    pthread_mutex_lock(&lock);
    for (;;) {
        while (!queue) {
            idle++;
            pthread_cond_wait(&work, &lock);
            idle--;
        }
        request *one = queue;
        if (!(queue = one->next))
            queue_end = &queue;
        waiting--;
        pthread_mutex_unlock(&lock);
        serve(one);
        pthread_mutex_lock(&lock);
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

/* Pointers to the `size` bytes of NUL-terminated words, which are copied behind them. */
static char **vector(const char *words, Py_ssize_t size)
{
    Py_ssize_t count = 0;
    for (Py_ssize_t i = 0; i < size; i++)
        count += !words[i];
    char **made = malloc((count + 1) * sizeof *made + size);
    if (!made)
        return NULL;
    char *at = (char *)(made + count + 1);
    memcpy(at, words, size);
    for (Py_ssize_t i = 0; i < count; i++, at += strlen(at) + 1)
        made[i] = at;
    made[count] = NULL;
    return made;
}

static void forget(PyObject *capsule)
{
    spawner *one = PyCapsule_GetPointer(capsule, CAPSULE);
    pthread_mutex_lock(&lock);
    unuse(one);
    pthread_mutex_unlock(&lock);
}

static PyObject *make(PyObject *self, PyObject *args)
{
    (void)self, (void)args;
    spawner *one = calloc(1, sizeof *one);
    if (!one)
        return PyErr_NoMemory();
    one->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (one->event < 0) {
        free(one);
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    one->uses = 1;
    one->last = &one->first;
    PyObject *capsule = PyCapsule_New(one, CAPSULE, forget);
    return capsule ? Py_BuildValue("Ni", capsule, one->event) : NULL;
}

static int copy_keep(request *one, PyObject *keep)
{
    one->keep_count = (int)PyTuple_Size(keep);
    one->keep = calloc(one->keep_count + 1, sizeof *one->keep);
    if (!one->keep)
        return -1;
    for (int i = 0; i < one->keep_count; i++) {
        long fd = PyLong_AsLong(PyTuple_GetItem(keep, i));
        if (PyErr_Occurred())
            return -1;
        one->keep[i] = (int)fd;
    }
    return 0;
}

static PyObject *submit(PyObject *self, PyObject *args)
{
    (void)self;
    PyObject *capsule, *keep;
    unsigned long long token;
    const char *words, *env, *search;
    Py_ssize_t words_size, env_size;
    int fds[3], keep_fds;
    if (!PyArg_ParseTuple(args, "OKy#y#z(iii)O!p", &capsule, &token, &words, &words_size, &env, &env_size, &search,
                          &fds[0], &fds[1], &fds[2], &PyTuple_Type, &keep, &keep_fds))
        return NULL;
    spawner *to = PyCapsule_GetPointer(capsule, CAPSULE);
    if (!to)
        return NULL;
    if (!words_size || words[words_size - 1] || (env_size && env[env_size - 1]))
        return PyErr_Format(PyExc_ValueError, "expected words that end in NUL");
    request *one = calloc(1, sizeof *one);
    if (!one)
        return PyErr_NoMemory();
    one->to = to;
    one->reply = calloc(1, sizeof *one->reply);
    one->argv = vector(words, words_size);
    one->env = vector(env, env_size);
    one->search = search ? strdup(search) : NULL;
    one->keep_fds = keep_fds;
    memcpy(one->stdio, fds, sizeof fds);
    if (copy_keep(one, keep) || !one->reply || !one->argv || !one->env || (search && !one->search)) {
        free_request(one);
        return PyErr_Occurred() ? NULL : PyErr_NoMemory();
    }
    one->reply->token = token;
    pthread_mutex_lock(&lock);
    int error = waiting < idle || threads == THREADS ? 0 : add_thread();
    if (!error) {
        to->uses++;
        waiting++;
        *queue_end = one;
        queue_end = &one->next;
        pthread_cond_signal(&work);
    }
    pthread_mutex_unlock(&lock);
    if (error) {
        free_request(one);
        errno = error;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    Py_RETURN_NONE;
}

static PyObject *answers(PyObject *self, PyObject *capsule)
{
    (void)self;
    spawner *one = PyCapsule_GetPointer(capsule, CAPSULE);
    PyObject *list = one ? PyList_New(0) : NULL;
    if (!list)
        return NULL;
    eventfd_t count;
    pthread_mutex_lock(&lock);
    answer *at = one->first;
    one->first = NULL;
    one->last = &one->first;
    eventfd_read(one->event, &count);
    pthread_mutex_unlock(&lock);
    for (answer *next; at; at = next) {
        next = at->next;
        PyObject *row = list ? Py_BuildValue("Kii", at->token, (int)at->pid, at->error) : NULL;
        free(at);
        if (list && (!row || PyList_Append(list, row)))
            Py_CLEAR(list);
        Py_XDECREF(row);
    }
    return list;
}

static PyObject *reap(PyObject *self, PyObject *arg)
{
    (void)self;
    long pid = PyLong_AsLong(arg);
    if (PyErr_Occurred())
        return NULL;
    int status;
    pid_t found = waitpid((pid_t)pid, &status, WNOHANG);
    if (found <= 0)
        Py_RETURN_NONE;
    return Py_BuildValue("ii", (int)found, WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status));
}

static PyMethodDef methods[] = {
    {"make", make, METH_NOARGS, NULL},
    {"submit", submit, METH_VARARGS, NULL},
    {"answers", answers, METH_O, NULL},
    {"reap", reap, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_spawn", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__spawn(void)
{
    return PyModule_Create(&module);
}
