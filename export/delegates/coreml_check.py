"""A written Core ML `.pte` read back: calls, operators, precision, shapes, and what it computes of a recorded step."""

from __future__ import annotations

from pathlib import Path

from dgemma.core.accelerators import COREML
from dgemma.export.delegates import coreml, mil
from dgemma.export.delegates.forms import Form
from dgemma.export.delegates.package import Call, CoreMLFunction, PteFile, the_calls, unpacked
from dgemma.export.delegates.read_back import check_errors, check_operators, refusing
from dgemma.export.delegates.recorded import Recorded, error


def check(path: Path, methods: list[Form], step: Recorded) -> None:
    """Raises ExportError."""
    with refusing(COREML, path):
        calls = the_calls(PteFile(path), methods, coreml.BACKEND)
        with unpacked(PteFile(path), calls) as (folder, places):
            version, functions = mil.read(folder / coreml.MODEL, folder / coreml.WEIGHTS)
            if version != coreml.SPECIFICATION:
                raise ValueError(f"the model has specification {version} instead of {coreml.SPECIFICATION}")
            for form in methods:
                check_form(form, calls[form.name], functions[places[form.name].name], places[form.name])
            for form in (f for f in methods if step.takes(f)):
                function, place = functions[places[form.name].name], places[form.name]
                check_errors(form, errors(form, calls[form.name], function, place, step))


def check_form(form: Form, call: Call, function: mil.Function, place: CoreMLFunction) -> None:
    """Operators, precision and shapes of a function; raises ValueError."""
    check_operators(form, function.operators, mil.OPERATORS, function.dtypes)
    for specs, names, order, tensors in (
        (form.inputs, place.inputs, call.inputs, function.inputs),
        (form.outputs, place.outputs, call.outputs, function.outputs),
    ):
        for name, index in zip(names, order, strict=True):
            if tensors[name][1] != specs[index].shape:
                raise ValueError(f"{specs[index].name} of {form.name} is {tensors[name][1]} instead of {specs[index].shape}")


def errors(
    form: Form, call: Call, function: mil.Function, place: CoreMLFunction, step: Recorded, *, rounds: bool = True
) -> dict[str, float]:
    """Output → error of the function as it was written, computed with numpy, from the model's."""
    feeds, wanted = step.feeds(form), step.wanted(form)
    got = function.run(
        {name: feeds[form.inputs[i].name] for name, i in zip(place.inputs, call.inputs, strict=True)}, rounds=rounds
    )
    outputs = {form.outputs[i].name: got[name] for name, i in zip(place.outputs, call.outputs, strict=True)}
    return {name: error(outputs[name], wanted[name]) for name in (t.name for t in form.outputs)}
