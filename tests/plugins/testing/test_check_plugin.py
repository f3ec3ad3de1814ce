"""A package that the framework would not take fails its own test."""

import sys
from types import ModuleType

import pytest

import dlm_builtin_plugins
from dlm_plugins.testing import check_plugin

CLASS = '''
import attrs
from dlm_plugins import hookimpl


@attrs.frozen(kw_only=True)
class Everything:
    """Corrupts whatever it may."""

    def select(self, request):
        raise NotImplementedError

'''


def plugin(name: str, hook: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType(name)
    exec(CLASS + hook, module.__dict__)
    monkeypatch.setitem(sys.modules, name, module)
    return module


def test_the_built_ins_are_taken() -> None:
    assert check_plugin(dlm_builtin_plugins) == []


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        ("@hookimpl\ndef dlm_maskings():\n    return {'all': Everything}", None),
        ("def dlm_maskings():\n    return {'all': Everything}", "'dlm_maskings' is not marked as a hook; is @hookimpl"),
        ("", "no hook implementation found; is @hookimpl missing?"),
        ("@hookimpl\ndef dlm_maskings():\n    return {}", "dlm_odd loads, but its hooks offer no component"),
        ("@hookimpl\ndef dlm_masking():\n    return {}", "unknown hook 'dlm_masking'; did you mean 'dlm_maskings'?"),
        ("@hookimpl\ndef dlm_losses():\n    return {'all': Everything}", "Everything has no method '__call__'"),
    ],
)
def test_what_is_wrong_with_the_module_is_said(hook: str, message: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    found = check_plugin(plugin("dlm_odd", hook, monkeypatch))
    if message is None:
        assert found == []
    else:
        (only,) = found
        assert message in only
