/*
 * Starts processes in threads that never need the interpreter: see linux/spawn.py for what and why.
 *
 * A request is copied, handed over (_threads.h) and answered with (token, pid, errno).
 * Limited API of 3.11, so that one file serves 3.11 and 3.13.
 */
#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define THREADS 4
#define STACK_BYTES (256 << 10)
#define CAPSULE "g8node.linux._spawn.outbox"
#include "_threads.h"

#define PATH_BYTES 4096
#define CHILD_STACK_BYTES (16 << 10)
#define NULL_FD -3

typedef struct {
    work work;
    char **argv, **env, *search, *program;
    int stdio[3], keep_fds, keep_count, *keep;
    pid_t pid;
    int error;
} request;

static void free_request(request *one)
{
    free(one->argv);
    free(one->env);
    free(one->search);
    free(one->program);
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

/* What a child needs until its exec; it shares our memory, and the thread that made it waits meanwhile. */
typedef struct {
    const request *one;
    const char *program;
    int reset; /* handlers are still ours */
    int error;
} birth;

static int set_descriptor(int target, int source)
{
    if (source == NULL_FD) {
        int fd = open("/dev/null", target ? O_WRONLY : O_RDONLY);
        if (fd < 0 || fd == target)
            return fd;
        int made = dup2(fd, target);
        close(fd);
        return made;
    }
    if (source != target)
        return dup2(source, target);
    return fcntl(source, F_SETFD, 0);
}

static int set_descriptors(const request *one)
{
    int stdio[3], highest = 2;
    for (int i = 0; i < 3; i++) {
        stdio[i] = one->stdio[i];
        if (stdio[i] >= 0 && stdio[i] < 3 && stdio[i] != i) /* nobody may take its place first */
            if ((stdio[i] = fcntl(stdio[i], F_DUPFD_CLOEXEC, 3)) < 0)
                return -1;
    }
    for (int i = 0; i < 3; i++)
        if (set_descriptor(i, stdio[i]) < 0)
            return -1;
    for (int i = 0; i < one->keep_count; i++) {
        if (fcntl(one->keep[i], F_SETFD, 0))
            return -1;
        highest = one->keep[i] > highest ? one->keep[i] : highest;
    }
    /* All of ours are close-on-exec already; this is for what a library may have left open. */
    return close_range(highest + 1, ~0U, 0);
}

/* The signals are blocked, so that no handler of ours runs in it: none is left when they are let through. */
static int child(void *data)
{
    birth *born = data;
    struct sigaction standard = {.sa_handler = SIG_DFL};
    sigset_t none;
    sigemptyset(&none);
    for (int number = 1; born->reset && number < NSIG; number++)
        sigaction(number, &standard, NULL); /* refused for KILL, STOP and the C library's own */
    sigaction(SIGPIPE, &standard, NULL);    /* the two that Python ignores */
    sigaction(SIGXFSZ, &standard, NULL);
    if (setsid() >= 0 && !set_descriptors(born->one) && !chdir("/") && !sigprocmask(SIG_SETMASK, &none, NULL))
        execve(born->program, born->one->argv, born->one->env);
    born->error = errno;
    _exit(127);
}

/* clone3(2) with CLONE_CLEAR_SIGHAND, which the C library has no function for; -errno. */
static long clone_clear(void *stack, size_t size, birth *born)
{
#ifdef __x86_64__
    struct clone_args how = {
        .flags = CLONE_VM | CLONE_VFORK | CLONE_CLEAR_SIGHAND,
        .exit_signal = SIGCHLD,
        .stack = (uintptr_t)stack,
        .stack_size = size,
    };
    register int (*run)(void *) __asm__("r8") = child;
    register void *with __asm__("r9") = born;
    long result = SYS_clone3;
    __asm__ volatile("syscall\n\t"
                     "test %%rax, %%rax\n\t"
                     "jnz 1f\n\t"
                     "xor %%ebp, %%ebp\n\t"
                     "mov %%r9, %%rdi\n\t"
                     "call *%%r8\n\t"
                     "ud2\n"
                     "1:"
                     : "+a"(result)
                     : "D"(&how), "S"(sizeof how), "r"(run), "r"(with)
                     : "rcx", "r11", "memory");
    return result;
#else
    (void)stack, (void)size, (void)born;
    return -ENOSYS;
#endif
}

/*
 * Not posix_spawn(3): before CLONE_CLEAR_SIGHAND it asks for each signal's handler and resets it, 120 system
 * calls, and maps a stack each time; together a tenth of what a short process costs.
 */
static int start(request *one, pid_t *pid)
{
    char path[PATH_BYTES], stack[CHILD_STACK_BYTES] __attribute__((aligned(16)));
    birth born = {.one = one, .program = one->program ? one->program : one->argv[0]};
    int error;
    if (one->search) {
        if ((error = look_up(one->argv[0], one->search, path)))
            return error;
        born.program = one->argv[0] = path;
    }
    long made = clone_clear(stack, sizeof stack, &born);
    if (made == -ENOSYS) {
        born.reset = 1;
        made = clone(child, stack + sizeof stack, CLONE_VM | CLONE_VFORK | SIGCHLD, &born);
        made = made < 0 ? -errno : made;
    }
    if (made < 0)
        return (int)-made;
    if (born.error)
        waitpid((pid_t)made, NULL, 0); /* unless the reaper has it */
    else
        *pid = (pid_t)made;
    return born.error;
}

static void perform(work *one)
{
    request *of = (request *)one;
    of->error = start(of, &of->pid);
    if (!of->error || !of->keep_fds)
        for (int i = 0; i < 3; i++)
            if (of->stdio[i] != NULL_FD)
                close(of->stdio[i]); /* may wait: another may hold the pipe's mutex */
}

static void forgotten(work *one)
{
    free_request((request *)one);
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
    const char *words, *env, *search, *program;
    Py_ssize_t words_size, env_size;
    int fds[3], keep_fds;
    if (!PyArg_ParseTuple(args, "OKy#y#zz(iii)O!p", &capsule, &token, &words, &words_size, &env, &env_size, &search,
                          &program, &fds[0], &fds[1], &fds[2], &PyTuple_Type, &keep, &keep_fds))
        return NULL;
    outbox *to = outbox_of(capsule);
    if (!to)
        return NULL;
    if (!words_size || words[words_size - 1] || (env_size && env[env_size - 1]))
        return PyErr_Format(PyExc_ValueError, "expected words that end in NUL");
    request *one = calloc(1, sizeof *one);
    if (!one)
        return PyErr_NoMemory();
    one->work.token = token;
    one->argv = vector(words, words_size);
    one->env = vector(env, env_size);
    one->search = search ? strdup(search) : NULL;
    one->program = program ? strdup(program) : NULL;
    one->keep_fds = keep_fds;
    memcpy(one->stdio, fds, sizeof fds);
    if (copy_keep(one, keep) || !one->argv || !one->env || (search && !one->search) || (program && !one->program)) {
        free_request(one);
        return PyErr_Occurred() ? NULL : PyErr_NoMemory();
    }
    int error = hand_over(&one->work, to);
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
    outbox *box = outbox_of(capsule);
    PyObject *list = box ? PyList_New(0) : NULL;
    if (!list)
        return NULL;
    for (work *at = take_done(box), *next; at; at = next) {
        request *one = (request *)at;
        next = at->next;
        PyObject *row = list ? Py_BuildValue("Kii", at->token, (int)one->pid, one->error) : NULL;
        free_request(one);
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

static int ended = -1; /* never closed, since a handler may be about to write to it */

static void on_ended(int number)
{
    int before = errno;
    (void)number;
    eventfd_write(ended, 1);
    errno = before;
}

static PyObject *watch(PyObject *self, PyObject *arg)
{
    (void)self;
    int wanted = PyObject_IsTrue(arg);
    struct sigaction action = {.sa_handler = wanted ? on_ended : SIG_DFL, .sa_flags = SA_RESTART | SA_NOCLDSTOP};
    if (wanted < 0)
        return NULL;
    if (ended < 0)
        ended = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (ended < 0 || sigaction(SIGCHLD, &action, NULL))
        return PyErr_SetFromErrno(PyExc_OSError);
    return PyLong_FromLong(ended);
}

static PyMethodDef methods[] = {
    {"make_outbox", make_outbox, METH_NOARGS, NULL},
    {"submit", submit, METH_VARARGS, NULL},
    {"answers", answers, METH_O, NULL},
    {"reap", reap, METH_O, NULL},
    {"watch", watch, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_spawn", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__spawn(void)
{
    return PyModule_Create(&module);
}
