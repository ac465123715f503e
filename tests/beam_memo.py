"""Lets Beam find out what it found out before: it takes 14,000 looks at signatures to build one small night's pipeline.

The answers are the same as long as the process lives, so they are kept: a night of three buckets costs half the CPU
seconds. For tests only, which build hundreds of pipelines in one process; a job builds one.
"""

import copy
import inspect
import types

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


def _remember_flags(parse):
    """What a class of options reads out of flags, kept by class and flags: every step of a pipeline asks again."""
    seen: dict[tuple[type, tuple[str, ...]], object] = {}

    def initialise(self, flags=None, **named):
        if flags is None or isinstance(flags, str) or named:
            return parse(self, flags, **named)
        key = (type(self), tuple(flags))
        if key not in seen:
            parse(self, flags)
            seen[key] = copy.deepcopy(self._visible_options)
            return None
        self._flags = flags
        self._visible_options = copy.deepcopy(seen[key])
        self._all_options = {name: getattr(self._visible_options, name) for name in self._visible_option_list()}
        return None

    return initialise
