/*
 * Inner loops that Python is too slow for: XXTEA, the search for a content-defined cut, CRC-32C.
 * Pure functions on buffers; the GIL is released while they run. wire/kernels.py says what they do, holds the
 * same in Python for where this was not compiled, and the tests hold both to the same answers.
 * Limited API of 3.11, so that one file serves 3.11 and 3.13.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <stdint.h>
#include <string.h>
#include "_blake2b.h"

#define DELTA 0x9e3779b9u
#define MIX (((z >> 5 ^ y << 2) + (y >> 3 ^ z << 4)) ^ ((sum ^ y) + (key[(p & 3) ^ e] ^ z)))

static uint32_t load32(const uint8_t *at)
{
    return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static void store32(uint8_t *at, uint32_t value)
{
    at[0] = value;
    at[1] = value >> 8;
    at[2] = value >> 16;
    at[3] = value >> 24;
}

static void load_words(uint32_t *words, const uint8_t *bytes, Py_ssize_t count)
{
    for (Py_ssize_t i = 0; i < count; i++)
        words[i] = load32(bytes + 4 * i);
}

static void store_words(uint8_t *bytes, const uint32_t *words, Py_ssize_t count)
{
    for (Py_ssize_t i = 0; i < count; i++)
        store32(bytes + 4 * i, words[i]);
}

static void encrypt_words(uint32_t *v, Py_ssize_t n, const uint32_t *key)
{
    uint32_t sum = 0, z = v[n - 1], y, e;
    Py_ssize_t p;
    for (Py_ssize_t rounds = 6 + 52 / n; rounds > 0; rounds--) {
        sum += DELTA;
        e = sum >> 2 & 3;
        for (p = 0; p < n - 1; p++) {
            y = v[p + 1];
            z = v[p] += MIX;
        }
        y = v[0];
        z = v[n - 1] += MIX;
    }
}

static void decrypt_words(uint32_t *v, Py_ssize_t n, const uint32_t *key)
{
    Py_ssize_t rounds = 6 + 52 / n, p;
    uint32_t sum = (uint32_t)rounds * DELTA, y = v[0], z, e;
    for (; rounds > 0; rounds--) {
        e = sum >> 2 & 3;
        for (p = n - 1; p > 0; p--) {
            z = v[p - 1];
            y = v[p] -= MIX;
        }
        z = v[n - 1];
        y = v[0] -= MIX;
        sum -= DELTA;
    }
}

/* xxtea(data, key, decrypt): whole words in, as many out; the length word is the caller's. */
static PyObject *xxtea(PyObject *self, PyObject *args)
{
    Py_buffer data, key;
    int backwards;
    PyObject *result = NULL;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*y*p", &data, &key, &backwards))
        return NULL;
    Py_ssize_t count = data.len / 4;
    if (key.len != 16 || data.len % 4 || count < 2) {
        PyErr_SetString(PyExc_ValueError, "xxtea: expected a key of 16 bytes and at least two words");
        goto out;
    }
    uint32_t words_of_key[4], *words = PyMem_Malloc(data.len);
    result = PyBytes_FromStringAndSize(NULL, data.len);
    if (words == NULL || result == NULL) {
        PyMem_Free(words);
        Py_CLEAR(result);
        PyErr_NoMemory();
        goto out;
    }
    uint8_t *written = (uint8_t *)PyBytes_AsString(result);
    Py_BEGIN_ALLOW_THREADS
    load_words(words_of_key, key.buf, 4);
    load_words(words, data.buf, count);
    if (backwards)
        decrypt_words(words, count, words_of_key);
    else
        encrypt_words(words, count, words_of_key);
    store_words(written, words, count);
    Py_END_ALLOW_THREADS
    PyMem_Free(words);
out:
    PyBuffer_Release(&data);
    PyBuffer_Release(&key);
    return result;
}

/* cut(data, gear, least, normal, most, strict, loose): length of the first piece of data. */
static PyObject *cut(PyObject *self, PyObject *args)
{
    Py_buffer data, table;
    Py_ssize_t least, normal, most;
    unsigned long long strict, loose;
    PyObject *result = NULL;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*y*nnnKK", &data, &table, &least, &normal, &most, &strict, &loose))
        return NULL;
    if (table.len != 256 * 8 || least < 0 || normal < least || most < normal) {
        PyErr_SetString(PyExc_ValueError, "cut: expected 256 words and ascending sizes");
        goto out;
    }
    Py_ssize_t at = least, end = data.len < most ? data.len : most;
    const uint8_t *bytes = data.buf;
    Py_BEGIN_ALLOW_THREADS
    uint64_t gear[256], hash = 0;
    for (int i = 0; i < 256; i++)
        gear[i] = load32((uint8_t *)table.buf + 8 * i) | (uint64_t)load32((uint8_t *)table.buf + 8 * i + 4) << 32;
    if (normal > end)
        normal = end;
    for (; at < normal; at++) {
        hash = (hash << 1) + gear[bytes[at]];
        if (!(hash & strict))
            break;
    }
    if (at >= normal) {
        for (; at < end; at++) {
            hash = (hash << 1) + gear[bytes[at]];
            if (!(hash & loose))
                break;
        }
    }
    at = at < end ? at + 1 : end;
    Py_END_ALLOW_THREADS
    result = PyLong_FromSsize_t(at);
out:
    PyBuffer_Release(&data);
    PyBuffer_Release(&table);
    return result;
}

static uint32_t crc_table[8][256];

static void fill_crc_table(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t value = i;
        for (int bit = 0; bit < 8; bit++)
            value = value >> 1 ^ (value & 1 ? 0x82f63b78u : 0);
        crc_table[0][i] = value;
    }
    for (int row = 1; row < 8; row++)
        for (int i = 0; i < 256; i++)
            crc_table[row][i] = crc_table[row - 1][i] >> 8 ^ crc_table[0][crc_table[row - 1][i] & 0xff];
}

/* crc32c(data): begun with all ones, not inverted at the end. */
static PyObject *crc32c(PyObject *self, PyObject *arg)
{
    Py_buffer data;
    (void)self;
    if (PyObject_GetBuffer(arg, &data, PyBUF_SIMPLE))
        return NULL;
    uint32_t crc = 0xffffffffu;
    const uint8_t *at = data.buf, *end = at + data.len;
    Py_BEGIN_ALLOW_THREADS
    for (; end - at >= 8; at += 8) {
        uint32_t low = crc ^ load32(at), high = load32(at + 4);
        crc = crc_table[7][low & 0xff] ^ crc_table[6][low >> 8 & 0xff] ^ crc_table[5][low >> 16 & 0xff] ^
              crc_table[4][low >> 24] ^ crc_table[3][high & 0xff] ^ crc_table[2][high >> 8 & 0xff] ^
              crc_table[1][high >> 16 & 0xff] ^ crc_table[0][high >> 24];
    }
    for (; at < end; at++)
        crc = crc >> 8 ^ crc_table[0][(crc ^ *at) & 0xff];
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&data);
    return PyLong_FromUnsignedLong(crc);
}

/* blank(size): a bytearray whose bytes are what lay there, because all of them will be written. */
static PyObject *blank(PyObject *self, PyObject *arg)
{
    (void)self;
    Py_ssize_t size = PyLong_AsSsize_t(arg);
    if (size < 0) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "negative count");
        return NULL;
    }
    return PyByteArray_FromStringAndSize(NULL, size);
}

/* blake2b_each([data, ...], key): the 32 bytes of BLAKE2b of each; the interpreter's lock is given back once. */
static PyObject *blake2b_each(PyObject *self, PyObject *args)
{
    PyObject *items, *result = NULL;
    const uint8_t *key;
    Py_ssize_t key_size, taken = 0;
    (void)self;
    if (!PyArg_ParseTuple(args, "O!y#", &PyList_Type, &items, &key, &key_size))
        return NULL;
    if (key_size > 64)
        return PyErr_Format(PyExc_ValueError, "blake2b_each: a key has at most 64 bytes");
    Py_ssize_t count = PyList_Size(items);
    Py_buffer *data = PyMem_Calloc(count ? count : 1, sizeof *data);
    uint8_t(*digests)[32] = PyMem_Calloc(count ? count : 1, sizeof *digests);
    if (data == NULL || digests == NULL) {
        PyErr_NoMemory();
        goto out;
    }
    for (; taken < count; taken++) {
        PyObject *item = PyList_GetItem(items, taken);
        if (item == NULL || PyObject_GetBuffer(item, &data[taken], PyBUF_SIMPLE))
            goto out;
    }
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t i = 0; i < count; i++) {
        blake2b state;
        blake2b_begin_keyed(&state, key, key_size);
        blake2b_add(&state, data[i].buf, data[i].len);
        blake2b_end(&state, digests[i]);
    }
    Py_END_ALLOW_THREADS
    result = PyList_New(count);
    for (Py_ssize_t i = 0; result != NULL && i < count; i++) {
        PyObject *digest = PyBytes_FromStringAndSize((const char *)digests[i], sizeof digests[i]);
        if (digest == NULL || PyList_SetItem(result, i, digest) < 0)
            Py_CLEAR(result);
    }
out:
    for (Py_ssize_t i = 0; i < taken; i++)
        PyBuffer_Release(&data[i]);
    PyMem_Free(digests);
    PyMem_Free(data);
    return result;
}

static PyMethodDef methods[] = {
    {"blake2b_each", blake2b_each, METH_VARARGS, NULL},
    {"xxtea", xxtea, METH_VARARGS, NULL},
    {"cut", cut, METH_VARARGS, NULL},
    {"crc32c", crc32c, METH_O, NULL},
    {"blank", blank, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_kernels", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__kernels(void)
{
    fill_crc_table();
    return PyModule_Create(&module);
}
