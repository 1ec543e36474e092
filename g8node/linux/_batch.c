/*
 * Many small system calls in one: the interpreter's lock is given back once for all of them, not once for each,
 * so that no other thread must be waited for in between (linux/diskfile.py). Writes may also be done by threads
 * that never need that lock (runtime/writes.py).
 * Limited API of 3.11, so that one file serves 3.11 and 3.13.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#define _FILE_OFFSET_BITS 64
#define _GNU_SOURCE
#include <Python.h>
#include <sys/uio.h>

#define THREADS 8
#define STACK_BYTES (64 << 10)
#define CAPSULE "g8node.linux._batch.outbox"
#include "_threads.h"

struct piece {
    off_t offset;
    Py_buffer data;
    int error;
};

static int write_piece(int fd, const struct piece *piece, int flags)
{
    const char *at = piece->data.buf;
    Py_ssize_t left = piece->data.len;
    off_t offset = piece->offset;
    (void)flags;
    while (left > 0) {
        ssize_t done = pwrite(fd, at, left, offset);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return errno;
        if (done == 0)
            return ENOSPC;
        at += done;
        left -= done;
        offset += done;
    }
    return 0;
}

static int read_piece(int fd, const struct piece *piece, int flags)
{
    struct iovec into = {piece->data.buf, piece->data.len};
    ssize_t done;
    if (piece->offset < 0) /* preadv2 would read at the file's own position */
        return EINVAL;
    do
        done = preadv2(fd, &into, 1, piece->offset, flags);
    while (done < 0 && errno == EINTR);
    return done < 0 ? errno : done < piece->data.len ? EAGAIN : 0;
}

/* Fill pieces from a list of (offset, buffer); how many hold a buffer then, all of them unless an error is set. */
static Py_ssize_t take(PyObject *items, struct piece *pieces, Py_ssize_t count, int kind)
{
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *item = PyList_GetItem(items, i);
        if (item == NULL || !PyTuple_Check(item) || PyTuple_Size(item) != 2) {
            PyErr_SetString(PyExc_TypeError, "expected (offset, data)");
            return i;
        }
        pieces[i].offset = PyLong_AsLongLong(PyTuple_GetItem(item, 0));
        if (PyErr_Occurred() || PyObject_GetBuffer(PyTuple_GetItem(item, 1), &pieces[i].data, kind))
            return i;
    }
    return count;
}

static void release(struct piece *pieces, Py_ssize_t count)
{
    for (Py_ssize_t i = 0; i < count; i++)
        PyBuffer_Release(&pieces[i].data);
    PyMem_Free(pieces);
}

/* The pieces of a list of (offset, buffer), or NULL with an error set. */
static struct piece *pieces_of(PyObject *items, Py_ssize_t *count, int kind)
{
    if (!PyList_Check(items)) {
        PyErr_SetString(PyExc_TypeError, "expected a list");
        return NULL;
    }
    *count = PyList_Size(items);
    struct piece *pieces = PyMem_Calloc(*count ? *count : 1, sizeof(struct piece));
    if (pieces == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    Py_ssize_t taken = take(items, pieces, *count, kind);
    if (taken == *count)
        return pieces;
    release(pieces, taken);
    return NULL;
}

static PyObject *errors_of(const struct piece *pieces, Py_ssize_t count)
{
    PyObject *result = PyList_New(count);
    for (Py_ssize_t i = 0; result != NULL && i < count; i++) {
        PyObject *error = PyLong_FromLong(pieces[i].error);
        if (error == NULL || PyList_SetItem(result, i, error) < 0)
            Py_CLEAR(result);
    }
    return result;
}

/* What `one` says of each (offset, buffer) of a list. */
static PyObject *each(int (*one)(int, const struct piece *, int), int fd, int flags, PyObject *items, int kind)
{
    Py_ssize_t count;
    struct piece *pieces = pieces_of(items, &count, kind);
    if (pieces == NULL)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t i = 0; i < count; i++)
        pieces[i].error = one(fd, &pieces[i], flags);
    Py_END_ALLOW_THREADS
    PyObject *result = errors_of(pieces, count);
    release(pieces, count);
    return result;
}

/* pwrite_many(fd, [(offset, data), ...]): errno of each, 0 where all was written. */
static PyObject *pwrite_many(PyObject *self, PyObject *args)
{
    int fd;
    PyObject *writes;
    (void)self;
    if (!PyArg_ParseTuple(args, "iO", &fd, &writes))
        return NULL;
    return each(write_piece, fd, 0, writes, PyBUF_SIMPLE);
}

/* pread_many(fd, [(offset, into), ...], flags): errno of each, 0 where all was read, EAGAIN for a part of it. */
static PyObject *pread_many(PyObject *self, PyObject *args)
{
    int fd, flags;
    PyObject *reads;
    (void)self;
    if (!PyArg_ParseTuple(args, "iOi", &fd, &reads, &flags))
        return NULL;
    return each(read_piece, fd, flags, reads, PyBUF_WRITABLE);
}

typedef struct {
    work work;
    int fd;
    Py_ssize_t count;
    struct piece *pieces;
} batch;

static void perform(work *one)
{
    batch *of = (batch *)one;
    for (Py_ssize_t i = 0; i < of->count; i++)
        of->pieces[i].error = write_piece(of->fd, &of->pieces[i], 0);
}

/* It keeps its buffers, which need the interpreter. */
static void forgotten(work *one)
{
    (void)one;
}

/* submit(outbox, token, fd, [(offset, data), ...]): the data is kept until `finished` has told what became of it. */
static PyObject *submit(PyObject *self, PyObject *args)
{
    PyObject *capsule, *writes;
    unsigned long long token;
    int fd;
    (void)self;
    if (!PyArg_ParseTuple(args, "OKiO", &capsule, &token, &fd, &writes))
        return NULL;
    outbox *to = outbox_of(capsule);
    if (!to)
        return NULL;
    batch *one = calloc(1, sizeof *one);
    if (!one)
        return PyErr_NoMemory();
    one->work.token = token;
    one->fd = fd;
    one->pieces = pieces_of(writes, &one->count, PyBUF_SIMPLE);
    if (!one->pieces) {
        free(one);
        return NULL;
    }
    int error = hand_over(&one->work, to);
    if (!error)
        Py_RETURN_NONE;
    release(one->pieces, one->count);
    free(one);
    errno = error;
    return PyErr_SetFromErrno(PyExc_OSError);
}

/* finished(outbox): [(token, errno of each), ...] of what was done since the last call. */
static PyObject *finished(PyObject *self, PyObject *capsule)
{
    (void)self;
    outbox *box = outbox_of(capsule);
    PyObject *list = box ? PyList_New(0) : NULL;
    if (!list)
        return NULL;
    for (work *at = take_done(box), *next; at; at = next) {
        batch *one = (batch *)at;
        next = at->next;
        PyObject *errors = list ? errors_of(one->pieces, one->count) : NULL;
        PyObject *row = errors ? Py_BuildValue("KN", at->token, errors) : NULL;
        release(one->pieces, one->count);
        free(one);
        if (list && (!row || PyList_Append(list, row)))
            Py_CLEAR(list);
        Py_XDECREF(row);
    }
    return list;
}

static PyMethodDef methods[] = {
    {"make_outbox", make_outbox, METH_NOARGS, NULL},
    {"submit", submit, METH_VARARGS, NULL},
    {"finished", finished, METH_O, NULL},
    {"pread_many", pread_many, METH_VARARGS, NULL},
    {"pwrite_many", pwrite_many, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_batch", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__batch(void)
{
    return PyModule_Create(&module);
}
