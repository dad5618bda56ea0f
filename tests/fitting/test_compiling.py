"""The kernels compiled ahead are all that there are."""

import pytest

pytest.importorskip("numba")


def _compile_and_look() -> int:
    from numba.core.dispatcher import Dispatcher

    from haloformer.fitting import kernel
    from haloformer.fitting.compiling import compile_kernels
    from haloformer.fitting.reallens import kernels as real_lenses
    from haloformer.simulation import kernels
    from haloformer.simulation.components import kernels as components

    compile_kernels()
    found = {
        name: function
        for module in (kernel, kernels, components, real_lenses)
        for name, function in vars(module).items()
        if isinstance(function, Dispatcher)
    }
    # What another kernel calls is compiled into that one.
    called = {name for function in found.values() for name in function.py_func.__code__.co_names}
    missing = [name for name in found.keys() - called if not found[name].signatures]
    print("missing:", missing)
    return int(bool(missing) or len(found) < 20)


def test_each_kernel_has_been_compiled_afterwards(forked):
    # In a process of its own, for in this one other tests may have called them.
    process = forked(_compile_and_look)
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, out + errors
