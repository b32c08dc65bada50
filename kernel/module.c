/* The kernel as a Python module, for the stable ABI: one binary for every Python from 3.11 on. */

#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include "moments.h"

/* Reading so much takes a few microseconds, beside which letting other threads run is free. */
static const int64_t LONG = 1 << 15;

static int list_bins(const Histogram *histogram, enum Format format, PyObject *counts)
{
    for (int bin = 0; bin < count_bins(format); bin++) {
        int64_t total = 0;
        for (int strand = 0; strand < STRANDS; strand++)
            total += histogram->bins[strand][bin];
        if (bin == 0)
            total -= histogram->zeros;
        if (total == 0)
            continue;
        PyObject *key = PyLong_FromLong(to_exponent(bin, format));
        PyObject *value = PyLong_FromLongLong(total);
        int failed = !key || !value || PyDict_SetItem(counts, key, value) < 0;
        Py_XDECREF(key);
        Py_XDECREF(value);
        if (failed)
            return -1;
    }
    return 0;
}

static PyObject *to_tuple(const Moments *moments, PyObject *zeros, PyObject *exponents)
{
    return Py_BuildValue(
        "(LdddLLNN)", moments->finite, moments->mean, moments->m2, moments->abs_max,
        moments->nan, moments->inf, zeros, exponents);
}

static Moments run(const void *numbers, int64_t count, enum Format format, Histogram *histogram)
{
    if (count < LONG)
        return measure(numbers, count, format, histogram);
    Moments moments;
    Py_BEGIN_ALLOW_THREADS
    moments = measure(numbers, count, format, histogram);
    Py_END_ALLOW_THREADS
    return moments;
}

static PyObject *measure_with_histogram(const void *numbers, int64_t count, enum Format format)
{
    Histogram histogram;
    Moments moments = run(numbers, count, format, &histogram);
    PyObject *exponents = PyDict_New();
    if (!exponents || list_bins(&histogram, format, exponents) < 0) {
        Py_XDECREF(exponents);
        return NULL;
    }
    return to_tuple(&moments, PyLong_FromLongLong(histogram.zeros), exponents);
}

PyDoc_STRVAR(
    measure_doc,
    "measure(address, count, format, full, /)\n--\n\n"
    "Return (finite, mean, m2, abs_max, nan, inf, zeros, exponents) of numbers in memory.\n\n"
    "The last two are None unless ``full``.");

static PyObject *py_measure(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    (void)module;
    if (nargs != 4)
        return PyErr_Format(PyExc_TypeError, "measure takes 4 arguments, not %zd", nargs);
    const void *numbers = PyLong_AsVoidPtr(args[0]);
    int64_t count = PyLong_AsLongLong(args[1]);
    long format = PyLong_AsLong(args[2]);
    int full = PyObject_IsTrue(args[3]);
    if (PyErr_Occurred())
        return NULL;
    if (format < FLOAT32 || format > FLOAT16)
        return PyErr_Format(PyExc_ValueError, "%ld is no format of this module", format);
    if (full)
        return measure_with_histogram(numbers, count, format);
    Moments moments = run(numbers, count, format, NULL);
    return to_tuple(&moments, Py_NewRef(Py_None), Py_NewRef(Py_None));
}

static PyMethodDef methods[] = {
    {"measure", (PyCFunction)(void (*)(void))py_measure, METH_FASTCALL, measure_doc},
    {NULL, NULL, 0, NULL},
};

static int add_formats(PyObject *module)
{
    return PyModule_AddIntMacro(module, FLOAT32) < 0 || PyModule_AddIntMacro(module, FLOAT64) < 0
            || PyModule_AddIntMacro(module, BFLOAT16) < 0
            || PyModule_AddIntMacro(module, FLOAT16) < 0
        ? -1
        : 0;
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, add_formats},
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_kernel",
    .m_doc = "Moments of numbers in memory, in one read.",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__kernel(void)
{
    return PyModuleDef_Init(&definition);
}
