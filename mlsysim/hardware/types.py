"""Types of an accelerator: its arithmetic, its memory, its power."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any

from pydantic import AfterValidator, Field, StrictInt, model_validator

from mlsysim.core.errors import UnknownNameError
from mlsysim.core.precision import number_format, precision_name
from mlsysim.core.provenance import Provenance
from mlsysim.core.quantities import ByteRate, Bytes, FlopRate, Money, Power
from mlsysim.core.spec import Spec
from mlsysim.core.units import Quantity, in_unit

# Tensor cores and MXUs run both 16-bit formats at one rate; datasheets often print only one of them.
_SAME_RATE = {"fp16": "bf16", "bf16": "fp16"}


def _known_precisions(rates: dict[str, Quantity]) -> dict[str, Quantity]:
    return {precision_name("precision", name): rate for name, rate in rates.items()}


class ComputeCore(Spec):
    """Arithmetic rates: dense (no sparsity) peak, by number format, summed in 32 bits.

    ``fp16_sum_flops`` is the rate of 16-bit products summed in 16 bits, where it differs (GeForce cards: twice the rate).
    ``peak_flops`` is what people call the chip's rate: of 16-bit products unless it is stated.

    Example:
        >>> core = ComputeCore(peak_flops="275 TFLOP/s", precision_flops={"bf16": "275 TFLOP/s"})
        >>> f"{core.rate_flops_per_s('fp16', 'TPU v4'):.3g}"
        '2.75e+14'
    """

    peak_flops: FlopRate
    precision_flops: Annotated[dict[str, FlopRate], AfterValidator(_known_precisions)] = Field(default_factory=dict)
    fp16_sum_flops: FlopRate | None = None
    multiprocessors: StrictInt | None = Field(default=None, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _with_peak(cls, fields: Any) -> Any:
        rates = fields.get("precision_flops") if isinstance(fields, Mapping) else None
        if not isinstance(rates, Mapping) or not rates or "peak_flops" in fields:
            return fields
        named = next((name for name in _SAME_RATE if name in rates), next(iter(rates)))
        return {**fields, "peak_flops": rates[named]}

    @cached_property
    def _rates_flops_per_s(self) -> dict[str, float]:
        return {name: in_unit(rate, "flop/second") for name, rate in self.precision_flops.items()}

    def rate_flops_per_s(self, precision: str, device: str = "this device", called: str | None = None) -> float:
        """Dense peak in FLOP/s at ``precision``; fp16 and bf16 stand in for each other where only one is listed.

        Args:
            precision: a number format.
            device: what an error calls the device.
            called: what an error calls the format, where a caller knows it by another name.

        Raises:
            UnknownNameError: the datasheet lists no rate for it.
        """
        rates = self._rates_flops_per_s
        rate = rates.get(precision) or rates.get(_SAME_RATE.get(precision, ""))
        if rate is None:
            error = UnknownNameError.among("precision", called or precision, rates)
            listed = ", ".join(rates) or "none"
            arithmetic = number_format(precision).arithmetic_on(rates)
            told = f"; {precision} is multiplied in {arithmetic} there" if arithmetic in rates else ""
            error.args = (f"precision = {(called or precision)!r}: {device} has no such rate; it lists {listed}{told}",)
            raise error
        return rate

    def scaled(self, multiprocessors: int | None, peak_flops: str = "") -> ComputeCore:
        """Returns these cores in another number or at another clock: all peaks go with the number, or with the peak stated.

        Args:
            multiprocessors: how many there are (None: as many as here).
            peak_flops: ``peak_flops`` of the other cores where it does not go with their number, because their clock differs.

        Example:
            >>> cores = ComputeCore(peak_flops="10 TFLOP/s", multiprocessors=4)
            >>> cores.scaled(2).peak_flops.m_as("TFLOP/s"), cores.scaled(2, "6 TFLOP/s").peak_flops.m_as("TFLOP/s")
            (5.0, 6.0)
        """
        if multiprocessors is None and not peak_flops:
            return self
        share = (multiprocessors or 1) / (self.multiprocessors or 1)
        if peak_flops:
            share = (ComputeCore(peak_flops=peak_flops).peak_flops / self.peak_flops).m_as("")
        return self.model_copy(
            update={
                "multiprocessors": multiprocessors or self.multiprocessors,
                "peak_flops": self.peak_flops * share,
                "fp16_sum_flops": None if self.fp16_sum_flops is None else self.fp16_sum_flops * share,
                "precision_flops": {name: rate * share for name, rate in self.precision_flops.items()},
            }
        )


class MemoryHierarchy(Spec):
    """Memory of a device. "80 GB" of HBM is 80 GiB: the registry says so; what a caller writes is taken as written."""

    capacity: Bytes
    bandwidth: ByteRate
    technology: str = ""
    l2_capacity: Bytes | None = None


class HardwareNode(Spec):
    """One accelerator (a GPU, a TPU chip, a CPU socket, a phone). One of your own needs its rates and its memory alone.

    ``interconnect_bw`` is one direction, per device, to its nearest peers (NVLink, ICI, Infinity Fabric).

    Example:
        >>> chip = HardwareNode(
        ...     name="TPU v4",
        ...     release_year=2022,
        ...     compute=ComputeCore(peak_flops="275 TFLOP/s", precision_flops={"bf16": "275 TFLOP/s"}),
        ...     memory=MemoryHierarchy(capacity="32 GB", bandwidth="1200 GB/s"),
        ...     tdp="200 W",
        ... )
        >>> chip.memory_capacity_B
        32000000000.0
        >>> own = HardwareNode(
        ...     compute={"precision_flops": {"bf16": "1 PFLOP/s"}}, memory={"capacity": "96 GiB", "bandwidth": "4 TB/s"}
        ... )
        >>> own.name, own.compute.peak_flops.m_as("TFLOP/s")
        ('own accelerator', 1000.0)
    """

    name: str = Field(default="own accelerator", min_length=1)
    release_year: StrictInt | None = Field(default=None, ge=1950, le=2100)
    compute: ComputeCore
    memory: MemoryHierarchy
    tdp: Power | None = None
    idle_power: Power | None = None
    interconnect_bw: ByteRate | None = None
    host_link_bw: ByteRate | None = None
    vendor: str = ""
    form_factor: str = ""
    price: Money | None = None
    provenance: Provenance | None = None

    def rate_flops_per_s(self, precision: str, called: str | None = None) -> float:
        """Dense peak in FLOP/s at ``precision``, which an error calls ``called``."""
        return self.compute.rate_flops_per_s(precision, self.name, called)

    @cached_property
    def fp16_sum_flops_per_s(self) -> float:
        """Dense peak of 16-bit products summed in 16 bits, in FLOP/s."""
        stated_rate = self.compute.fp16_sum_flops
        return self.rate_flops_per_s("fp16") if stated_rate is None else float(stated_rate.m_as("flop/second"))

    @cached_property
    def memory_capacity_B(self) -> float:
        """Device memory in bytes."""
        return in_unit(self.memory.capacity, "byte")

    @cached_property
    def memory_bandwidth_Bps(self) -> float:
        """Device memory bandwidth in bytes per second."""
        return in_unit(self.memory.bandwidth, "byte/second")

    @cached_property
    def cache_B(self) -> float:
        """Last level of on-chip memory in bytes; 0 where the entry names none, so that nothing is taken to stay in it."""
        return 0.0 if self.memory.l2_capacity is None else in_unit(self.memory.l2_capacity, "byte")

    @cached_property
    def interconnect_bandwidth_Bps(self) -> float | None:
        """One-direction link bandwidth per device in bytes per second, if known."""
        return None if self.interconnect_bw is None else in_unit(self.interconnect_bw, "byte/second")
