"""The kernels compiled ahead are all that there are."""

import importlib
import pkgutil

import pytest

pytest.importorskip("numba")


def _compile_and_look() -> int:
    from numba.core.dispatcher import Dispatcher

    import haloformer
    from haloformer.fitting.compiling import compile_kernels

    compile_kernels()
    names = [each.name for each in pkgutil.walk_packages(haloformer.__path__, "haloformer.")]
    found = {
        (module, name): function
        for module in names
        if "kernel" in module
        for name, function in vars(importlib.import_module(module)).items()
        if isinstance(function, Dispatcher)
    }
    # What another kernel calls is compiled into that one.
    called = {name for function in found.values() for name in function.py_func.__code__.co_names}
    missing = [place for place in found if place[1] not in called and not found[place].signatures]
    print("missing:", missing)
    return int(bool(missing) or len(found) < 40)


def test_each_kernel_has_been_compiled_afterwards(forked):
    # In a process of its own, for in this one other tests may have called them.
    process = forked(_compile_and_look)
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, out + errors
