"""Timing tables against cycles counted by hand from the sources that the tables name."""

from __future__ import annotations

import pytest

from edgekit.devices.blocks import Block, instruction_sizes, summarize
from edgekit.devices.timing import load_table, table_names
from edgekit.errors import InputError

# (table, assembly, code, cycles of each instruction, taken, mispredict)
CASES = [
    ("m4", "adds r0,r1,r2; muls r3,r0,r3; eors r4,r5", "881843436c40", (1, 1, 1), 0),
    # Table 3-1: LDR 2, neighbouring loads are pipelined.
    (
        "m4",
        "ldr r0,[r1]; ldr r2,[r1,#4]; ldr r3,[r1,#8]; adds r0,r2,r3",
        "08684a688b68d018",
        (2, 1, 1, 1),
        0,
    ),
    ("m4", "ldr r0,[r1]; ldr r2,[r0] (depends)", "08680268", (2, 2), 0),
    ("m4", "adds r1,#4; ldr r0,[r1] (address from ALU)", "04310868", (1, 3), 0),
    ("m4", "str; ldrd; strd", "0860d4e90023c5e90023", (1, 3, 3), 0),
    ("m4", "ldmia r0!,{r1-r4}; stmia r5!,{r1-r4}: 1+N", "1ec81ec5", (5, 5), 0),
    ("m4", "smlad; smlal; smmulr; sdiv", "21fb0200c1fb024554fb15f397fbf3f6", (1, 1, 1, 6), 0),
    ("m4", "cmp; it eq; moveq: IT folds after 16 bits", "002808bf1146", (1, 0, 1), 0),
    ("m4", "adds.w; it eq; moveq: not after 32 bits", "18f1010808bf1146", (1, 1, 1), 0),
    ("m4", "subs r0,#1; bne", "0138fdd1", (1, 1), 1),
    ("m4", "bl", "00f030f8", (1,), 1),
    ("m4", "bx lr", "7047", (1,), 2),
    ("m4", "pop {r4-r6,pc}: 1+N+P", "70bd", (5,), 2),
    ("m4", "cbz", "40b1", (1,), 1),
    # Table 7-1.
    ("m4", "vfma.f32; vadd.f32; vdiv.f32", "a0ee810a72ee221a83ee843a", (3, 1, 14), 0),
    (
        "m4",
        "vldr s0; vldmia {s4-s11}; vmov s1,r2; vmov r2,r3,d0; vstr s0",
        "90ed000ab1ec082a00ee902a53ec102b81ed000a",
        (2, 9, 1, 2, 1),
        0,
    ),
    ("m3", "mla; smull; smlal; muls", "01fb023080fb0145c1fb02454843", (2, 4, 6, 1), 0),
    ("m0plus", "adds; ldr; ldr; str; muls", "88182368656823604843", (1, 2, 2, 2, 1), 0),
    ("m0plus-small-mul", "muls r0,r1,r0", "4843", (32,), 0),
    ("m0plus", "ldmia {r1-r3}; push {r4-r7,lr}", "0ec8f0b5", (4, 6), 0),
    ("m0plus", "pop {r4-r7,pc}: 3+N", "f0bd", (6,), 2),
    ("m0plus", "subs; bne: 2 when taken", "0138fdd1", (1, 1), 1),
    ("m0plus", "bl: 3", "00f030f8", (1,), 2),
    ("m7", "four independent ALU operations in pairs", "881863197e186240", (1, 0, 1, 0), 0),
    ("m7", "three that depend on each other", "01eb020000eb050303eb0106", (1, 1, 1), 0),
    ("m7", "two loads, smlad that needs both", "08684a6820fb0233", (1, 0, 1), 0),
    (
        "m7",
        "ldrb; adds and shifted add that need it; ldr from the sum; str of that; ldr after update",
        "0878c21805eb8004266841f8046b0f68",
        (1, 2, 0, 2, 1, 1),
        0,
    ),
    (
        "m7",
        "accumulator forwarded; mul waits 2; two packed operations never pair; sdiv alone",
        "20fb023324fb053303fb03f12ffa84f22ffa86f592fbf3f1",
        (1, 1, 2, 1, 1, 7),
        0,
    ),
    ("m7", "one multiplier", "20fb023320fb0244", (1, 1), 0),
    ("m7", "subs with bne", "0138fdd1", (1, 0), 0),
    ("m33", "load-use interlock, and none", "0868c2180c68f519", (1, 2, 1, 1), 0),
    ("m33", "ldmia {r1-r4}; ldrd", "1ec8d4e90023", (4, 2), 0),
    # Helium: two beats, overlapped with a neighbour in another pipe; LE is free.
    (
        "m55",
        "vldrb; vldrb; vmladava; vldrb; vmladava; le",
        "b0ec101eb1ec103ef0ee222f91ed005ef0ee244f0ff00dc0",
        (1, 2, 1, 1, 1, 0),
        0,
    ),
    ("m55", "vmladava; vmladava", "f0ee222ff0ee244f", (2, 2), 0),
    (
        "m55",
        "gathers of 16, 4, 8 and 4 elements",
        "90fc020e90fc434f90fc824e92fd011e",
        (16, 4, 8, 4),
        0,
    ),
    ("m55", "ldmia of 4, vldmia of 16; dls", "90e8540190ec100a43f001e0", (4, 16, 1), 0),
]


@pytest.mark.parametrize("table, text, code, cycles, taken", CASES, ids=lambda v: str(v)[:40])
def test_hand_counted(
    table: str, text: str, code: str, cycles: tuple[int, ...], taken: int
) -> None:
    cost = load_table(table).block(0x1000, bytes.fromhex(code))
    assert cost.cycles == cycles, text
    assert cost.taken == taken, text


def test_branch_to_an_unaligned_32_bit_instruction_costs_one_more_on_m4() -> None:
    code = bytes.fromhex("01eb0200")  # add.w
    assert load_table("m4").block(0x1002, code).entry == 1
    assert load_table("m4").block(0x1000, code).entry == 0
    assert load_table("m4").block(0x1002, bytes.fromhex("8818")).entry == 0


def test_every_table_names_its_source() -> None:
    for name in table_names():
        table = load_table(name)
        assert table.name == name
        assert "Arm" in table.source
    assert load_table("cortex-m4") is load_table("m4") or load_table("cortex-m4").name == "m4"
    with pytest.raises(InputError, match="there are m0plus"):
        load_table("m99")


def test_undecodable_bytes_cost_something() -> None:
    code = bytes.fromhex("ffffffff00de")
    for name in table_names():
        cost = load_table(name).block(0, code)
        assert len(cost.cycles) == len(instruction_sizes(code)) == 2


class _NoSymbols:
    @staticmethod
    def function_at(_address: int) -> None:
        return None


def test_a_loop_adds_up() -> None:
    """subs; bne, 100 times, entered by falling in: 100 * 2 + 99 taken."""
    loop = Block(0, 0x1000, bytes.fromhex("0138fdd1"), 100, 99)
    trace = summarize([loop], _NoSymbols(), "cortex-m4", "m4", "test")  # type: ignore[arg-type]
    assert (trace.instructions, trace.cycles) == (200, 299)
    assert trace.functions[0].name == "(no symbol)"


def test_m7_charges_mispredictions_of_the_rarer_direction() -> None:
    loop = Block(0, 0x1000, bytes.fromhex("0138fdd1"), 100, 90)
    trace = summarize([loop], _NoSymbols(), "cortex-m7", "m7", "test")  # type: ignore[arg-type]
    assert trace.cycles == 100 + 6 * 10
