"""Units and names: what the one registry understands, how quantities travel, what a typo suggests."""

from __future__ import annotations

import copy
import math
import pickle

import pint
import pytest

from mlsysim.core.constants import Q_ as PUBLIC_Q_
from mlsysim.core.constants import ureg
from mlsysim.core.errors import InputError, UnitError, UnknownNameError, nearest
from mlsysim.core.identity_cache import identity_cache
from mlsysim.core.precision import BYTES_PER_ELEMENT, bytes_per_element, precision_name
from mlsysim.core.units import Q_, in_unit, magnitude, with_unit
from mlsysim.hardware.registry import Hardware
from mlsysim.hardware.types import MemoryHierarchy

DIMENSIONS = {
    "flop": "[operations]",
    "byte": "[information]",
    "count": "[count]",
    "USD": "[currency]",
    "gCO2e": "[carbon]",
    "second": "[time]",
    "joule": "[energy]",
    "kelvin": "[temperature]",
    "liter": "[volume]",
}
RESULT_UNITS = [
    "second",
    "count",
    "count/second",
    "flop",
    "flop/second",
    "byte",
    "byte/second",
    "joule",
    "watt",
    "gCO2e",
    "gCO2e/kilowatt_hour",
    "USD",
]


@pytest.mark.parametrize(("unit", "dimension"), DIMENSIONS.items())
def test_each_is_a_dimension_of_its_own(unit, dimension):
    assert str(Q_(1, unit).dimensionality) == dimension
    for other in DIMENSIONS:
        if other != unit:
            with pytest.raises(pint.DimensionalityError):
                Q_(1, unit) + Q_(1, other)


@pytest.mark.parametrize(
    ("text", "unit", "number"),
    [
        ("405e9 count", "Gcount", 405),
        ("1.4e12 count", "Tcount", 1.4),
        ("275 TFLOP/s", "flop/s", 2.75e14),
        ("275 TFLOPS", "TFLOP/s", 275),
        ("5e23 flop", "EFLOP", 5e5),
        ("50 GB/s", "byte/s", 5e10),
        ("400 Gbit/s", "GB/s", 50),
        ("400 Gbps", "GB/s", 50),
        ("80 GB", "byte", 80e9),
        ("80 GiB", "byte", 80 * 2**30),
        ("1 TiB", "GiB", 1024),
        ("1 byte", "bit", 8),
        ("1 kWh", "J", 3.6e6),
        ("1287 MWh", "GJ", 4633.2),
        ("1 kW", "J/s", 1000),
        ("429 gCO2e/kWh", "gCO2e/J", 429 / 3.6e6),
        ("552 tCO2e", "kgCO2e", 552e3),
        ("14.8 day", "s", 14.8 * 86400),
        ("3 min", "s", 180),
        ("25 us", "ms", 0.025),
        ("2 USD/hour", "USD/s", 2 / 3600),
        ("1000 token/s", "count/s", 1000),
    ],
)
def test_units_read_as_written(text, unit, number):
    assert Q_(text).to(unit).magnitude == pytest.approx(number)
    assert magnitude("x", text, unit) == pytest.approx(number)


def test_gigabytes_are_not_gibibytes():
    assert Q_("1 GiB").m_as("GB") == pytest.approx(1.073741824)
    assert Q_("80 GB") < Q_("80 GiB")
    assert MemoryHierarchy(capacity="80 GB", bandwidth="1 TB/s").capacity.m_as("byte") == 80e9
    assert Hardware.Cloud.H100.memory_capacity_B == 80 * 2**30, '"80 GB" of HBM is 80 GiB'


def test_a_quantity_from_number_and_unit_text_or_quantity():
    assert Q_(80, "GB") == Q_("80 GB") == Q_(Q_("80 GB")) == PUBLIC_Q_("80e9 byte")
    assert ureg.Quantity(80, "GB") == Q_("80 GB")
    foreign = pint.UnitRegistry().Quantity(2.0, "kilowatt")
    assert Q_(foreign).m_as("W") == pytest.approx(2000)
    assert magnitude("tdp", foreign, "watt") == pytest.approx(2000)


@pytest.mark.parametrize("unit", RESULT_UNITS)
@pytest.mark.parametrize("number", [0.0, 1.5, 3e-300, 405e9])
def test_with_unit_is_q(unit, number):
    fast, slow = with_unit(number, unit), Q_(number, unit)
    assert fast == slow
    assert fast.units == slow.units
    assert fast.dimensionality == slow.dimensionality
    assert (str(fast), repr(fast), hash(fast)) == (str(slow), repr(slow), hash(slow))
    assert (fast * 2).to_root_units() == (slow * 2).to_root_units()
    assert fast + slow == 2 * slow
    assert type(fast) is type(slow)
    again = with_unit(number, unit)
    again.ito_root_units()
    assert with_unit(number, unit).units == slow.units, "converting one in place leaves the unit alone"


@pytest.mark.parametrize(("text", "unit"), [("1.7 s", "ms"), ("3 GB/s", "byte/s"), ("2 kWh", "J"), ("20 degC", "K"), ("7", "")])
def test_in_unit_is_what_pint_converts_to(text, unit):
    quantity = Q_(text)
    assert in_unit(quantity, unit) == pytest.approx(quantity.m_as(unit), rel=1e-15)
    for _ in range(2):  # a factor that was looked up once judges the next as strictly
        with pytest.raises(pint.DimensionalityError):
            in_unit(quantity, "watt")


def test_what_is_kept_of_an_object_is_not_given_for_another():
    @identity_cache(most=3)
    def first(items, place=0):
        return items[place]

    lists = [[number, -number] for number in range(10)]
    assert [first(items) for items in lists] == [items[0] for items in lists]
    assert [first(items, 1) for items in lists] == [items[1] for items in lists]
    assert [first([number]) for number in range(100)] == list(range(100)), "an object that is gone leaves no answer behind"


def test_what_is_kept_of_two_objects_is_given_for_both_alone():
    calls = []

    @identity_cache(objects=2)
    def both(one, other, power):
        calls.append(power)
        return one[0] ** power + other[0] ** power

    two, three, alike = [2], [3], [2]
    assert [both(two, three, 2), both(three, two, 2), both(two, three, 2), both(two, three, power=3)] == [13, 13, 13, 35]
    assert calls == [2, 2, 3]
    both(alike, three, 2)
    assert calls == [2, 2, 3, 2], "an equal object is another one"


@pytest.mark.parametrize("make", [lambda q: pickle.loads(pickle.dumps(q)), copy.copy, copy.deepcopy])
@pytest.mark.parametrize("unit", RESULT_UNITS)
def test_quantities_survive_copying_and_pickling(make, unit):
    quantity = with_unit(2.5, unit)
    same = make(quantity)
    assert same == quantity
    assert same.units == quantity.units
    assert same + quantity == 2 * quantity, "it belongs to the same registry"


def test_registry_entries_survive_pickling():
    chip = pickle.loads(pickle.dumps(Hardware.Cloud.H100))
    assert chip == Hardware.Cloud.H100
    assert chip.rate_flops_per_s("bf16") == Hardware.Cloud.H100.rate_flops_per_s("bf16")


@pytest.mark.parametrize("value", [5, 5.0, None, True, b"5 GB", ["5 GB"], "5", "", "5 W", "5 GB/s", Q_("5 s")])
def test_magnitude_wants_a_quantity_of_its_dimension(value):
    with pytest.raises(UnitError, match=r"^capacity = .*(byte|a number with a unit)"):
        magnitude("capacity", value, "byte")


def test_a_unit_alone_is_no_quantity():
    """pint reads "GB" as 1 GB: a forgotten number must not become one."""
    with pytest.raises(UnitError, match=r"^capacity = 'GB'"):
        magnitude("capacity", "GB", "byte")


@pytest.mark.parametrize("value", [Q_(math.nan, "GB"), Q_(math.inf, "GB"), Q_(-math.inf, "GB")])
def test_magnitude_wants_a_finite_number(value):
    with pytest.raises(InputError, match=r"^capacity = .*finite"):
        magnitude("capacity", value, "byte")


@pytest.mark.parametrize(
    ("typo", "known", "meant"),
    [
        ("h100", ["A100", "H100"], "H100"),
        ("fp61", ["fp16", "fp32"], "fp16"),
        ("batchsize", ["batch_size", "precision"], "batch_size"),
        ("fat-tree", ["fat_tree", "torus"], "fat_tree"),
        ("llama2 70b", ["Llama2_70B", "Llama3_70B"], "Llama2_70B"),
        ("zzz", ["A100"], None),
        (100, ["100"], None),
        ("", ["A100"], None),
    ],
)
def test_the_nearest_name(typo, known, meant):
    assert nearest(typo, known) == meant


def test_unknown_names_list_what_is_known():
    error = UnknownNameError.among("grid", "Frence", [f"G{i}" for i in range(20)] + ["France"])
    assert str(error) == "grid = 'Frence': expected one of 21 names; did you mean 'France'?"
    assert (error.argument, error.value, error.suggestion) == ("grid", "Frence", "France")


@pytest.mark.parametrize(
    ("name", "width"),
    [("fp32", 4), ("bf16", 2), ("fp8", 1), ("int4", 4.125 / 8), ("fp4", 0.5), ("mxfp4", 4.25 / 8), ("fp6", 0.75), ("fp64", 8)],
)
def test_formats_have_widths(name, width):
    assert bytes_per_element(name) == width
    assert precision_name("precision", name.upper()) == name
    assert name in BYTES_PER_ELEMENT


def test_errors_survive_pickling():
    for error in (InputError("batch_size", 0, "a whole number >= 1"), UnknownNameError.among("grid", "Frence", ["France"])):
        same = pickle.loads(pickle.dumps(error))
        assert str(same) == str(error)
        assert same.argument == error.argument
