"""Lets Beam find out what it found out before: it takes 14,000 looks at signatures to build one small night's pipeline.

The answers are the same as long as the process lives, so they are kept: a night of three buckets costs half the CPU
seconds. For tests only, which build hundreds of pipelines in one process; a job builds one.
"""

import argparse
import bz2
import copy
import inspect
import sys
import types
import typing

import objsize.traverse
from apache_beam.internal import cloudpickle_pickler
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms import core, userstate
from apache_beam.typehints import decorators


def install() -> None:
    """Patches Beam in this process; a second time it does nothing."""
    if core.get_function_args_defaults.__module__ != __name__:
        core.get_function_args_defaults = _remember_arguments(core.get_function_args_defaults)
        PipelineOptions.__init__ = _remember_flags(PipelineOptions.__init__)
        userstate.get_dofn_specs = _remember_stateless(userstate.get_dofn_specs)
        decorators.get_signature = core.get_signature = _remember_signatures(decorators.get_signature)
        decorators.IOTypeHints.from_callable = _remember_hints(decorators.IOTypeHints.from_callable)
        core._check_fn_use_yield_and_return = _remember_yields(core._check_fn_use_yield_and_return)
        objsize.traverse._iter_modules_globals = _remember_modules(objsize.traverse._iter_modules_globals)
        PipelineOptions.get_all_options = _remember_options(PipelineOptions.get_all_options)
        cloudpickle_pickler.bz2 = _QuickBz2


def _remember_arguments(look):
    """The names and defaults of a method's arguments, kept by function: they do not depend on the object."""
    seen: dict[types.FunctionType, tuple[list, list]] = {}

    def get_function_args_defaults(function):
        if not isinstance(function, types.MethodType) or not isinstance(function.__func__, types.FunctionType):
            return look(function)
        if function.__func__ not in seen:
            seen[function.__func__] = look(function)
        names, defaults = seen[function.__func__]
        return list(names), list(defaults)

    return get_function_args_defaults


def _remember_stateless(look):
    """That the methods of a class of DoFns ask for neither state nor timers, kept by class.

    Not of a DoFn that carries methods itself: such are looked at every time.
    """
    stateless: set[type] = set()

    def get_dofn_specs(dofn):
        plain = not any(isinstance(value, types.MethodType) for value in vars(dofn).values())
        if plain and type(dofn) in stateless:
            return set(), set()
        found = look(dofn)
        if plain and not any(found):
            stateless.add(type(dofn))
        return found

    return get_dofn_specs


def _remember_signatures(look):
    """What a function takes, kept by function, of functions that a module has: others come and go."""
    seen: dict[types.FunctionType, inspect.Signature] = {}

    def get_signature(function):
        if not isinstance(function, types.FunctionType) or "<" in function.__qualname__:
            return look(function)
        if function not in seen:
            seen[function] = look(function)
        return seen[function]

    return get_signature


def _remember_hints(look):
    """The types that a function's annotations name, kept by function as its signature is."""
    seen: dict[types.FunctionType, object] = {}

    def from_callable(function):
        plain = function.__func__ if isinstance(function, types.MethodType) else function
        if not isinstance(plain, types.FunctionType) or "<" in plain.__qualname__:
            return look(function)
        key = (plain, plain is function)
        if key not in seen:
            seen[key] = look(function)
        return seen[key]

    return from_callable


def _remember_yields(look):
    """Whether a function both yields and returns, kept by its code: Beam reads its source to find out."""
    seen: dict[types.CodeType, bool] = {}

    def _check_fn_use_yield_and_return(function):
        code = getattr(function, "__code__", None)
        if not isinstance(code, types.CodeType):
            return look(function)
        if code not in seen:
            seen[code] = look(function)
        return seen[code]

    return _check_fn_use_yield_and_return


def _remember_modules(look):
    """The globals of the modules there are, kept until another is loaded: asked for every side input that is read."""
    seen: dict[int, list[dict]] = {}

    def _iter_modules_globals():
        count = len(sys.modules)
        if count not in seen:
            seen.clear()
            seen[count] = list(look())
        return seen[count]

    return _iter_modules_globals


class _QuickBz2:
    """Compresses what is pickled as little as bz2 can, and reads all of it: at 9, each of hundreds takes 4 MB anew."""

    decompress = staticmethod(bz2.decompress)

    @staticmethod
    def compress(data: bytes, compresslevel: int = 9) -> bytes:
        return bz2.compress(data, 1)


def _copy(value: typing.Any) -> typing.Any:
    return value if value is None or isinstance(value, (str, int, float)) else copy.deepcopy(value)


def _remember_flags(parse):
    """What a class of options reads out of flags, kept by class and flags: every step of a pipeline asks again."""
    seen: dict[tuple[type, tuple[str, ...]], tuple[object, list[str]]] = {}

    def initialise(self, flags=None, **named):
        if flags is None or isinstance(flags, str) or named:
            return parse(self, flags, **named)
        key = (type(self), tuple(flags))
        if key not in seen:
            parse(self, flags)
            seen[key] = (copy.deepcopy(self._visible_options), self._visible_option_list())
            return None
        kept, names = seen[key]
        self._flags = flags
        self._visible_options = argparse.Namespace(**{name: _copy(value) for name, value in vars(kept).items()})
        self._all_options = {name: getattr(self._visible_options, name) for name in names}
        return None

    return initialise


def _remember_options(look):
    """All options as a dictionary, kept by flags and by what was set since: it takes a parser of 400 options."""
    seen: dict[tuple, dict[str, typing.Any]] = {}

    def get_all_options(self, *arguments, **named):
        if callable(arguments[1] if len(arguments) > 1 else named.get("add_extra_args_fn")):
            return look(self, *arguments, **named)
        state = (tuple(self._flags or ()), repr(self._all_options), len(PipelineOptions.__subclasses__()))
        key = (type(self), state, arguments, tuple(sorted(named.items())))
        if key not in seen:
            seen[key] = look(self, *arguments, **named)
        return {name: self._all_options.get(name, _copy(value)) for name, value in seen[key].items()}

    return get_all_options
