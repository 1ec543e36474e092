/*
 * User namespaces for containers: see linux/userns.py.
 *
 * A process of many threads cannot make one, only a child can; it shares our memory and descriptors and does
 * nothing but wait for its end, so that nothing is copied or closed. Limited API of 3.11.
 */
#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define STACK_BYTES (16 << 10)

static int child(void *nothing)
{
    (void)nothing;
    for (;;)
        syscall(SYS_ppoll, NULL, 0, NULL, NULL, 0); /* pause(2) is not on every architecture */
    return 0;
}

static int put(pid_t pid, const char *name, const char *text)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, name);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return errno;
    int error = write(fd, text, strlen(text)) < 0 ? errno : 0;
    close(fd);
    return error;
}

static int take(pid_t pid, const char *name, int *fd)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/ns/%s", (int)pid, name);
    *fd = open(path, O_RDONLY | O_CLOEXEC);
    return *fd < 0 ? errno : 0;
}

static int make(const char *map, int *fds)
{
    char stack[STACK_BYTES] __attribute__((aligned(16)));
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* no handler of ours is to run in the child */
    /* No signal at its end: it is nobody's business but ours. */
    pid_t pid = clone(child, stack + sizeof stack, CLONE_VM | CLONE_FILES | CLONE_NEWUSER | CLONE_NEWNET, NULL);
    int error = pid < 0 ? errno : 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error)
        return error;
    if (!(error = put(pid, "uid_map", map)) && !(error = put(pid, "gid_map", map)) &&
        !(error = take(pid, "user", &fds[0])))
        error = take(pid, "net", &fds[1]);
    kill(pid, SIGKILL);
    while (waitpid(pid, NULL, __WCLONE) < 0 && errno == EINTR)
        ;
    return error;
}

static PyObject *py_make(PyObject *self, PyObject *args)
{
    (void)self;
    const char *map;
    int fds[2] = {-1, -1}, error;
    if (!PyArg_ParseTuple(args, "s", &map))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    error = make(map, fds);
    Py_END_ALLOW_THREADS
    if (error) {
        if (fds[0] >= 0)
            close(fds[0]);
        errno = error;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return Py_BuildValue("ii", fds[0], fds[1]);
}

static PyMethodDef methods[] = {{"make", py_make, METH_VARARGS, NULL}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_userns", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__userns(void)
{
    return PyModule_Create(&module);
}
