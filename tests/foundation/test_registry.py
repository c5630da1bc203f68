import inspect
from pathlib import Path

import pytest

from stablequant.foundation import registry
from stablequant.foundation.errors import InputError

ROOT = Path(registry.__file__).resolve().parents[1]
# What a file of each folder has, by the folder's own page.
FUNCTIONS = {
    "ranges": {"activations": ["histogram", "grid"], "weights": ["weight", "grid"]},
    "planners": {"planner": ["options"]},
    "rounding": {"round_weight": ["weight", "grids"]},
    "weight_formats": {"of": ["bits", "group", "asymmetric"], "parse": ["text"]},
}
EVERY = [(folder, name) for folder in FUNCTIONS for name in registry.names(folder)]


@pytest.mark.parametrize(("folder", "name"), EVERY)
def test_every_method_has_the_functions_of_its_folder(folder, name):
    module = registry.get(folder, name)
    assert module.__doc__
    for function, arguments in FUNCTIONS[folder].items():
        parameters = inspect.signature(getattr(module, function)).parameters.values()
        assert [p.name for p in parameters if p.default is p.empty] == arguments


def test_names_are_those_of_the_files():
    for folder in FUNCTIONS:
        files = (ROOT / registry.FOLDERS[folder].replace(".", "/")).glob("[a-z]*.py")
        assert registry.names(folder) == tuple(sorted({file.stem for file in files} - {"base"}))
    assert "stable" in registry.names("planners")


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(InputError, match=r"no method 'percentil' in ranges .*did you mean 'percentile'\?"):
        registry.get("ranges", "percentil")
    with pytest.raises(InputError, match=r"available: .*mse, percentile\)$"):
        registry.get("ranges", "zzz")


def test_a_name_cannot_lead_out_of_its_folder():
    for name in ("..grid", "../grid", "", "__init__"):
        with pytest.raises(InputError):
            registry.get("ranges", name)
