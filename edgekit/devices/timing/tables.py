"""The numbers of each core. Sources are named; what Arm does not publish is said to be modelled."""

from __future__ import annotations

from types import MappingProxyType

from edgekit.devices.timing.dual import DualIssue
from edgekit.devices.timing.model import InOrder, TimingTable

_M0PLUS = InOrder(
    name="m0plus",
    source="Arm Cortex-M0+ Technical Reference Manual r0p1 (DDI 0484), table 3-1, single-cycle "
    "multiplier, no wait states",
    load=2,
    load_next=2,
    address_use=0,
    store=2,
    multiple=1,
    pop_pc_taken=2,  # POP with PC: 3 + N
    branch_taken=1,
    call_taken=2,  # BL: 3
    register_taken=1,  # BX, BLX, ADD PC: 2
    fold_it=False,
    unaligned=0,
    barrier=3,
    system=3,
)

_TABLES: tuple[TimingTable, ...] = (
    _M0PLUS,
    InOrder(
        **{
            **_M0PLUS.__dict__,
            "name": "m0plus-small-mul",
            "source": _M0PLUS.source.replace("single-cycle", "32-cycle"),
            "mul": 32,
        }
    ),
    InOrder(
        name="m3",
        source="Arm Cortex-M3 Technical Reference Manual r2p1 (DDI 0337), table 3-1 and 3.3.2; long "
        "multiplications and divisions by their mean",
        mla=2,
        mull=4,
        mlal=6,
        dsp=2,
    ),
    InOrder(
        name="m4",
        source="Arm Cortex-M4 Technical Reference Manual r0p1 (DDI 0439), tables 3-1 and 7-1, 3.3.2; "
        "branch refill, address and alignment penalties fitted to published MLPerf Tiny results",
    ),
    DualIssue(
        name="m7",
        source="modelled: Arm does not publish the Cortex-M7's timing; units and latencies as in the "
        "scheduling model that Arm contributed to LLVM, pipeline as in DDI 0489",
    ),
    InOrder(
        name="m33",
        source="modelled: Arm does not publish the Cortex-M33's timing; the Cortex-M4's rules with "
        "a load-use interlock instead of two-cycle loads, and the FPU's single-cycle issue",
        load=1,
        load_next=1,
        load_use=1,
        load_double=2,
        store_double=2,
        multiple=0,
        fmac=3,
    ),
    InOrder(
        name="m55",
        source="modelled: Arm Cortex-M55 Software Optimization Guide (two-beat Helium, overlap of "
        "neighbours in different pipes), Technical Reference Manual (DDI 1060) for the pipeline",
        load=1,
        load_next=1,
        load_use=1,
        address_use=0,
        load_double=2,
        store_double=2,
        multiple=0,
        unaligned=0,
        fmac=2,
        helium=True,
    ),
)

TABLES: MappingProxyType[str, TimingTable] = MappingProxyType({t.name: t for t in _TABLES})
