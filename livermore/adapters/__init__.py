"""The only rooms that touch I/O libraries.

One file per library or service. Each speaks the library's language on one side and ours on the
other: values in, values out, and the library's errors translated once into those of
:mod:`livermore.errors`. No tasks are started here and no decisions taken; those live in the
runtime above and in the pure half below.
"""
