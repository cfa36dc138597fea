"""Bytes and collectives read from programs as the TPU's compiler writes them, against counts by hand."""

import pytest

from prefix_jax.parallel.program import Instruction, read
from prefix_jax.planning import cost

# A loop of five turns: takes one layer of a stack in place, gathers it over two chips, and writes a row of a result.
PROGRAM = """
%inner (a: bf16[5,64,32], i: s32[]) -> bf16[64,32] {
  %a = bf16[5,64,32]{2,1,0:T(8,128)(2,1)} parameter(0)
  %i = s32[]{:T(128)S(6)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  %slice = bf16[1,64,32]{2,1,0:T(8,128)(2,1)} dynamic-slice(%a, %i, %zero, %zero), dynamic_slice_sizes={1,64,32}
  ROOT %one = bf16[64,32]{1,0:T(8,128)(2,1)S(1)} bitcast(%slice)
}

%outer (b: f32[5,16], x: f32[1,16], j: s32[]) -> (f32[5,16], f32[16]) {
  %b = f32[5,16]{1,0:T(8,128)} parameter(0)
  %x = f32[1,16]{1,0:T(8,128)S(1)} parameter(1)
  %j = s32[]{:T(128)S(6)} parameter(2)
  %nil = s32[]{:T(128)} constant(0)
  %written = f32[5,16]{1,0:T(8,128)} dynamic-update-slice(%b, %x, %j, %nil)
  %row = f32[16]{0:T(128)} bitcast(%x)
  ROOT %both = (f32[5,16]{1,0:T(8,128)}, f32[16]{0:T(128)S(1)}) tuple(%written, %row)
}

%body (p: (s32[], bf16[5,64,32], f32[5,16])) -> (s32[], bf16[5,64,32], f32[5,16]) {
  %p = (s32[]{:T(128)}, bf16[5,64,32]{2,1,0:T(8,128)(2,1)}, f32[5,16]{1,0:T(8,128)}) parameter(0)
  %n = s32[]{:T(128)} get-tuple-element(%p), index=0
  %stack = bf16[5,64,32]{2,1,0:T(8,128)(2,1)} get-tuple-element(%p), index=1
  %rows = f32[5,16]{1,0:T(8,128)} get-tuple-element(%p), index=2
  %layer = bf16[64,32]{1,0:T(8,128)(2,1)S(1)} fusion(%stack, %n), kind=kLoop, calls=%inner, backend_config={"estimated_cycles":"100"}
  %whole = bf16[64,64]{1,0:T(8,128)(2,1)S(1)} all-gather(%layer), channel_id=3, replica_groups=[4,2]<=[8], dimensions={1}
  %kept = f32[1,16]{1,0:T(8,128)S(1)} constant({...})
  %update = (f32[5,16]{1,0:T(8,128)}, f32[16]{0:T(128)S(1)}) fusion(%rows, %kept, %n), kind=kLoop, calls=%outer, backend_config={"estimated_cycles":"7"}
  %sent = (bf16[64,32]{1,0:T(8,128)(2,1)S(1)}, bf16[64,32]{1,0:T(8,128)(2,1)S(1)}, u32[]{:S(2)}) collective-permute-start(%layer), channel_id=5, source_target_pairs={{0,1},{1,0}}
  ROOT %t = (s32[]{:T(128)}, bf16[5,64,32]{2,1,0:T(8,128)(2,1)}, f32[5,16]{1,0:T(8,128)}) tuple(%n, %stack, %rows)
}

%condition (q: (s32[], bf16[5,64,32], f32[5,16])) -> pred[] {
  %limit = s32[]{:T(128)} constant(5)
  %q = (s32[]{:T(128)}, bf16[5,64,32]{2,1,0:T(8,128)(2,1)}, f32[5,16]{1,0:T(8,128)}) parameter(0)
  %k = s32[]{:T(128)} get-tuple-element(%q), index=0
  ROOT %lt = pred[]{:T(512)} compare(%k, %limit), direction=LT
}

ENTRY %main (s: bf16[5,64,32], r: f32[5,16]) -> f32[5,16] {
  %s = bf16[5,64,32]{2,1,0:T(8,128)(2,1)} parameter(0)
  %r = f32[5,16]{1,0:T(8,128)} parameter(1)
  %begin = s32[]{:T(128)} constant(0)
  %in = (s32[]{:T(128)}, bf16[5,64,32]{2,1,0:T(8,128)(2,1)}, f32[5,16]{1,0:T(8,128)}) tuple(%begin, %s, %r)
  %loop = (s32[]{:T(128)}, bf16[5,64,32]{2,1,0:T(8,128)(2,1)}, f32[5,16]{1,0:T(8,128)}) while(%in), condition=%condition, body=%body
  %out = f32[5,16]{1,0:T(8,128)} get-tuple-element(%loop), index=2
  ROOT %sum = f32[5,16]{1,0:T(8,128)} all-reduce(%out), channel_id=4, replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add
}
"""  # noqa: E501


def test_bytes_are_of_the_slices_that_are_read_and_the_rows_that_are_written():
    # What lies in the core's own memory costs the chip's nothing.
    counter = 2 * 4 + 4 + 4 + 1  # read by two fusions, compared with its limit
    assert cost._bytes_moved(*read(PROGRAM)) == 5 * (64 * 32 * 2 + 16 * 4 + counter)


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        ("[4,2]<=[8]", 2),
        ("{{0,1,2},{3,4,5}}", 3),
        ("mesh['axis_0'=2,'axis_1'=4,'axis_2'=3] {'axis_1','axis_2'}", 12),
        ("mesh['axis_0'=2,'axis_1'=8] {'axis_1':(2)4}", 4),
        ("mesh['axis_0'=2,'axis_1'=1,'axis_2'=2], device_ids=([2,2]T(1,0)) {'axis_0'}", 2),
    ],
)
def test_groups_of_collectives_in_each_form(groups, size):
    instruction = Instruction(
        "all", "f32[8]", "all-reduce", f"%x), channel_id=4, replica_groups={groups}, to_apply=%add"
    )
    assert cost._group(instruction) == size


def test_groups_in_an_unknown_form_are_no_guess():
    with pytest.raises(ValueError, match="in no form that is known"):
        cost._group(Instruction("all", "f32[8]", "all-reduce", "%x), channel_id=4, to_apply=%add"))


def test_collectives_count_as_often_as_their_loop_turns():
    kinds, sent = cost._collectives(*read(PROGRAM))
    assert kinds == {
        "all-gather": {"count": 5, "bytes": 5 * 8192.0},
        "all-reduce": {"count": 1, "bytes": 320.0},
        "collective-permute": {"count": 5, "bytes": 5 * 4096.0},
    }
    assert sent == 5 * 8192 / 2 + 2 * 320 * 7 / 8 + 5 * 4096


def test_the_compilers_cycles_are_summed_over_turns():
    assert cost._cycles(*read(PROGRAM)) == 5 * 107
