/*
 * Many small system calls in one: the interpreter's lock is given back once for all of them, not once for each,
 * so that no other thread must be waited for in between (linux/diskfile.py).
 * Limited API of 3.11, so that one file serves 3.11 and 3.13.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#define _FILE_OFFSET_BITS 64
#include <Python.h>
#include <errno.h>
#include <unistd.h>

struct piece {
    off_t offset;
    Py_buffer data;
    int error;
};

static int write_piece(int fd, const struct piece *piece)
{
    const char *at = piece->data.buf;
    Py_ssize_t left = piece->data.len;
    off_t offset = piece->offset;
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

/* Fill pieces from a list of (offset, buffer); how many hold a buffer then, all of them unless an error is set. */
static Py_ssize_t take(PyObject *writes, struct piece *pieces, Py_ssize_t count)
{
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *write = PyList_GetItem(writes, i);
        if (write == NULL || !PyTuple_Check(write) || PyTuple_Size(write) != 2) {
            PyErr_SetString(PyExc_TypeError, "pwrite_many: expected (offset, data)");
            return i;
        }
        pieces[i].offset = PyLong_AsLongLong(PyTuple_GetItem(write, 0));
        if (PyErr_Occurred() || PyObject_GetBuffer(PyTuple_GetItem(write, 1), &pieces[i].data, PyBUF_SIMPLE))
            return i;
    }
    return count;
}

/* pwrite_many(fd, [(offset, data), ...]): errno of each, 0 where all was written. */
static PyObject *pwrite_many(PyObject *self, PyObject *args)
{
    int fd;
    PyObject *writes, *result = NULL;
    (void)self;
    if (!PyArg_ParseTuple(args, "iO", &fd, &writes))
        return NULL;
    if (!PyList_Check(writes)) {
        PyErr_SetString(PyExc_TypeError, "pwrite_many: expected a list");
        return NULL;
    }
    Py_ssize_t count = PyList_Size(writes);
    struct piece *pieces = PyMem_Calloc(count ? count : 1, sizeof(struct piece));
    if (pieces == NULL)
        return PyErr_NoMemory();
    Py_ssize_t taken = take(writes, pieces, count);
    if (taken < count)
        goto out;
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t i = 0; i < count; i++)
        pieces[i].error = write_piece(fd, &pieces[i]);
    Py_END_ALLOW_THREADS
    result = PyList_New(count);
    for (Py_ssize_t i = 0; result != NULL && i < count; i++) {
        PyObject *error = PyLong_FromLong(pieces[i].error);
        if (error == NULL || PyList_SetItem(result, i, error) < 0)
            Py_CLEAR(result);
    }
out:
    for (Py_ssize_t i = 0; i < taken; i++)
        PyBuffer_Release(&pieces[i].data);
    PyMem_Free(pieces);
    return result;
}

static PyMethodDef methods[] = {
    {"pwrite_many", pwrite_many, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_batch", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__batch(void)
{
    return PyModule_Create(&module);
}
