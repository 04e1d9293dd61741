//! The stack analysis on short programs, assembled by GNU as and written down with their source.
//! Function `f0` lies at 0x100, `f1` at 0x200, and so on.

use tendon_bounds::{Code, Depth, Elf, Flow, Frame, Problem, ROM_STACK, Section, Symbol};

/// `sub sp,#40; add sp,#40; bx lr`
const LEAF: &str = "b08a b00a 4770";

fn analyse(functions: &[&str]) -> (Depth, Vec<Problem>, Vec<Frame>) {
    let names: Vec<String> = (0..functions.len()).map(|index| format!("f{index}")).collect();
    analyse_named(&names, functions)
}

fn analyse_named(names: &[String], functions: &[&str]) -> (Depth, Vec<Problem>, Vec<Frame>) {
    let mut bytes: Vec<u8> = Vec::new();
    for (index, function) in functions.iter().enumerate() {
        bytes.resize(0x100 * index, 0);
        let halves = function.split_whitespace().map(|half| u16::from_str_radix(half, 16).unwrap());
        bytes.extend(halves.flat_map(u16::to_le_bytes));
    }
    let symbol = |index: usize| Symbol {
        name: names[index].as_str(),
        value: 0x100 * (index as u32 + 1) + 1,
        size: functions[index].split_whitespace().count() as u32 * 2,
        is_function: true,
        is_undefined: false,
    };
    let section = Section { name: ".text", address: 0x100, bytes: &bytes, executable: true };
    let symbols = (0..functions.len()).map(symbol).collect();
    let elf = Elf { sections: vec![section], symbols, segments: Vec::new() };
    let code = Code::new(&elf);
    let mut flow = Flow::new(&code);
    let depth = flow.depth(0x100);
    let problems = flow.violations().into_iter().map(|violation| violation.problem).collect();
    (depth, problems, flow.deepest_path(0x100))
}

/// Depth of a program without problems.
fn worst(functions: &[&str]) -> u32 {
    let (depth, problems, _) = analyse(functions);
    assert_eq!(problems, [], "{functions:?}");
    depth.worst
}

fn problems(functions: &[&str]) -> Vec<Problem> {
    analyse(functions).1
}

#[test]
fn follows_every_way_to_move_the_stack_pointer() {
    for (source, code, depth) in [
        ("push {r4,lr}; pop {r4,pc}", "b510 bd10", 8),
        ("push.w {r4-r11,lr}; pop.w {r4-r11,pc}", "e92d 4ff0 e8bd 8ff0", 36),
        ("push {r4,lr}; pop.w {r4,lr}; bx lr", "b510 e8bd 4010 4770", 8),
        ("str lr,[sp,#-4]!; ldr pc,[sp],#4", "f84d ed04 f85d fb04", 4),
        ("strd r0,r1,[sp,#-8]!; ldrd r0,r1,[sp],#8; bx lr", "e96d 0102 e8fd 0102 4770", 8),
        ("stmdb sp!,{r0-r3}; add sp,#16; bx lr", "e92d 000f b004 4770", 16),
        ("vpush {d8-d15}; vpop {d8-d15}; bx lr", "ed2d 8b10 ecbd 8b10 4770", 64),
        ("vpush {s16}; vpop {s16}; bx lr", "ed2d 8a01 ecbd 8a01 4770", 4),
        ("sub sp,#508; add sp,#508; bx lr", "b0ff b07f 4770", 508),
        ("sub.w sp,sp,#1544; add.w sp,sp,#1544; bx lr", "f5ad 6dc1 f50d 6dc1 4770", 1544),
        ("subw sp,sp,#2068; addw sp,sp,#2068; bx lr", "f6ad 0d14 f60d 0d14 4770", 2068),
        ("movw r4,#50000; sub.w sp,sp,r4; add sp,r4; bx lr", "f24c 3450 ebad 0d04 44a5 4770", 50_000),
        (
            "movw r4,#34464; movt r4,#1; sub.w sp,sp,r4; add.w sp,sp,r4; bx lr",
            "f248 64a0 f2c0 0401 ebad 0d04 eb0d 0d04 4770",
            100_000,
        ),
        (
            "ldr r4,=-70000; add sp,r4; sub.w sp,sp,r4; bx lr; the literal",
            "4c02 44a5 ebad 0d04 4770 bf00 ee90 fffe",
            70_000,
        ),
        (
            "ldr.w r9,=-70000; add sp,r9; sub.w sp,sp,r9; bx lr; the literal",
            "f8df 9008 44cd ebad 0d09 4770 ee90 fffe",
            70_000,
        ),
        (
            "mov.w r4,#1024; sub.w sp,sp,r4,lsl #3; add.w sp,sp,#8192; bx lr",
            "f44f 6480 ebad 0dc4 f50d 5d00 4770",
            8192,
        ),
        ("mvn r4,#255; add sp,r4; sub.w sp,sp,r4; bx lr", "f06f 04ff 44a5 ebad 0d04 4770", 256),
        ("push {r7,lr}; mov r7,sp; sub sp,#64; mov sp,r7; pop {r7,pc}", "b580 466f b090 46bd bd80", 72),
        (
            "push {r4,r6,r7,lr}; add r7,sp,#8; sub sp,#16; mov r4,sp; bfc r4,#0,#4; mov sp,r4; \
             sub.w r4,r7,#8; mov sp,r4; pop {r4,r6,r7,pc}: aligned down by at most 15",
            "b5d0 af02 b084 466c f36f 0403 46a5 f1a7 0408 46a5 bdd0",
            16 + 16 + 15,
        ),
        (
            "push {r7,lr}; mov r7,sp; mov r4,sp; bic r4,r4,#15; mov sp,r4; mov sp,r7; pop {r7,pc}",
            "b580 466f 466c f024 040f 46a5 46bd bd80",
            8 + 15,
        ),
        ("msr basepri,r0; mrs r0,basepri; bx lr", "f380 8811 f3ef 8011 4770", 0),
    ] {
        assert_eq!(worst(&[code]), depth, "{source}");
    }
}

#[test]
fn takes_the_deepest_of_all_paths() {
    for (source, code, depth) in [
        (
            "cbz r0,1f; push {r4-r7,lr}; pop {r4-r7,pc}; 1: sub sp,#100; add sp,#100; bx lr",
            "b108 b5f0 bdf0 b099 b019 4770",
            100,
        ),
        ("push {r4,lr}; 1: subs r0,#1; bne 1b; bne.w 1b; pop {r4,pc}", "b510 3801 d1fd f47f affc bd10", 8),
        (
            "push {r4,lr}; cmp r0,#0; it eq; popeq {r4,pc}; sub sp,#32; add sp,#32; pop {r4,pc}",
            "b510 2800 bf08 bd10 b088 b008 bd10",
            40,
        ),
        ("cmp r0,#0; it eq; bxeq lr; push {r4,lr}; pop {r4,pc}", "2800 bf08 4770 b510 bd10", 8),
    ] {
        assert_eq!(worst(&[code]), depth, "{source}");
    }
}

#[test]
fn reads_jump_tables() {
    // push {lr}; tbb [pc,r0]; three offsets and padding; A: pop {pc}; B: sub sp,#40; add sp,#40; pop {pc};
    // C: sub sp,#20; add sp,#20; pop {pc}
    assert_eq!(worst(&["b500 e8df f000 0302 0006 bd00 b08a b00a bd00 b085 b005 bd00"]), 44);
    // push {lr}; tbh [pc,r0,lsl #1]; two offsets; A: pop {pc}; B: sub sp,#48; add sp,#48; pop {pc}
    assert_eq!(worst(&["b500 e8df f010 0002 0003 bd00 b08c b00c bd00"]), 52);
    // push {lr}; adr.w r3,T; add.w r3,r3,r0,lsl #2; mov pc,r3; T: b.w A; b.w B; A: pop {pc};
    // B: sub sp,#48; add sp,#48; pop {pc}
    let branches = "b500 f20f 0308 eb03 0380 469f f000 b802 f000 b801 bd00 b08c b00c bd00";
    assert_eq!(worst(&[branches]), 52);
    // adr.w r3,T; add.w r3,r3,r0,lsl #2; mov pc,r3; T: bx lr: no table.
    assert_eq!(problems(&["f20f 0306 eb03 0380 469f 4770"]), [Problem::Indirect(3)]);
    // ldr r3,[r1]; add.w r3,r3,r0,lsl #2; mov pc,r3; b.w .: a table somewhere.
    assert_eq!(problems(&["680b eb03 0380 469f f7ff bffe"]), [Problem::Indirect(3)]);
    // The second offset leads out of the program.
    assert!(!problems(&["b500 e8df f010 0002 0fff bd00"]).is_empty());
    // The program ends where the table should be.
    assert_eq!(problems(&["b500 e8df f010"]), [Problem::IndirectJump]);
    // tbb [r1,r0]: a table somewhere else.
    assert_eq!(problems(&["e8d1 f000 0002 bd00"]), [Problem::IndirectJump]);
}

#[test]
fn adds_what_is_called() {
    // push {r4,lr}; bl f1; pop {r4,pc}
    let (depth, problems, path) = analyse(&["b510 f000 f87d bd10", LEAF]);
    assert_eq!((depth.own, depth.worst, problems.len()), (8, 48, 0));
    let steps: Vec<(&str, u32)> = path.iter().map(|f| (f.function.as_str(), f.bytes)).collect();
    assert_eq!(steps, [("f0", 8), ("f1", 40)]);
    // push {r4,lr}; movw r3,#0x201; blx r3; pop {r4,pc}: the register's value is known.
    assert_eq!(worst(&["b510 f240 2301 4798 bd10", LEAF]), 48);
}

#[test]
fn counts_a_tail_call_from_where_the_frame_is_gone() {
    for (source, code) in [
        ("sub sp,#24; add sp,#24; b.w f1", "b086 b006 f000 b87c"),
        ("cbz r0,1f; b.w f1; 1: bx lr", "b108 f000 b87d 4770"),
        ("a linker's veneer: movw ip,#0x201; movt ip,#0; bx ip", "f240 2c01 f2c0 0c00 4760"),
    ] {
        assert_eq!(worst(&[code, LEAF]), 40, "{source}");
    }
}

#[test]
fn knows_what_never_comes_back() {
    // push {lr}; bl f1; and then nothing, because f1 is `b .`
    let (depth, found, _) = analyse(&["b500 f000 f87d", "e7fe"]);
    assert_eq!((depth.worst, depth.returns, found.len()), (4, false, 0));
    // udf #0
    assert!(!analyse(&["de00"]).0.returns);
    // The same call of a function that does come back.
    assert_eq!(problems(&["b500 f000 f87d", LEAF]), [Problem::NoFunction(0x106)]);
}

#[test]
fn refuses_recursion() {
    let circle = |names: &[&str]| Problem::Recursion(names.iter().map(|n| (*n).to_owned()).collect());
    // push {r4,lr}; bl f0; pop {r4,pc}
    assert_eq!(problems(&["b510 f7ff fffd bd10"]), [circle(&["f0", "f0"])]);
    // f0 calls f1, f1 calls f0.
    assert_eq!(problems(&["b510 f000 f87d bd10", "b510 f7ff ff7d bd10"]), [circle(&["f0", "f1", "f0"])]);
}

/// Loads with acquire and stores with release: what Rust's atomics are on a Cortex-M33.
#[test]
fn knows_what_armv8_m_writes() {
    // movw r4,#8; the instruction; sub.w sp,sp,r4
    let after = |code: &str| problems(&[&format!("f240 0408 {code} ebad 0d04 44a5 4770")]);
    for (source, code) in [
        ("lda r4,[r0]", "e8d0 4faf"),
        ("ldab r4,[r0]", "e8d0 4f8f"),
        ("ldah r4,[r0]", "e8d0 4f9f"),
        ("ldaex r4,[r0]", "e8d0 4fef"),
        ("ldaexb r4,[r0]", "e8d0 4fcf"),
        ("ldaexh r4,[r0]", "e8d0 4fdf"),
        ("stlex r4,r1,[r0]", "e8c0 1fe4"),
        ("stlexb r4,r1,[r0]", "e8c0 1fc4"),
        ("stlexh r4,r1,[r0]", "e8c0 1fd4"),
        ("tt r4,r0", "e840 f400"),
    ] {
        assert_eq!(after(code), [Problem::UnknownStackPointer], "{source}");
    }
    for (source, code) in [
        ("stl r4,[r0]", "e8c0 4faf"),
        ("stlb r4,[r0]", "e8c0 4f8f"),
        ("stlh r4,[r0]", "e8c0 4f9f"),
        ("stlex r3,r4,[r0]", "e8c0 4fe3"),
        ("msr msplim,r0", "f380 880a"),
    ] {
        assert_eq!(after(code), [], "{source}");
    }
}

#[test]
fn refuses_calls_and_jumps_to_unknown_places() {
    for (source, code, problem) in [
        ("blx r3", "4798 4770", Problem::Indirect(3)),
        ("bx r3", "4718", Problem::Indirect(3)),
        ("mov pc,r3", "469f", Problem::Indirect(3)),
        ("push {lr}; ldr lr,[r0]; bx lr", "b500 f8d0 e000 4770", Problem::Indirect(14)),
        ("ldr pc,[r0,r1,lsl #2]", "f850 f021", Problem::IndirectJump),
        ("ldm r0,{r1,pc}", "e890 8002", Problem::IndirectJump),
        ("add pc,r0", "4487", Problem::IndirectJump),
        ("b.w to where nothing is", "f000 b87e", Problem::NoFunction(0x200)),
    ] {
        assert_eq!(problems(&[code]), [problem], "{source}");
    }
}

/// The ROM is in no file: what it needs is an assumption, and only functions that say so by name may call it.
#[test]
fn takes_the_stack_of_a_rom_function_as_an_assumption() {
    // push {r4,lr}; blx r3; pop {r4,pc}
    let code = ["b510 4798 bd10"];
    let (depth, found, _) = analyse_named(&["tendon_rom_flash".into()], &code);
    assert_eq!((depth.own, depth.worst, found.len()), (8, 8 + ROM_STACK, 0));
    assert_eq!(problems(&code), [Problem::Indirect(3)]);
}

#[test]
fn refuses_a_stack_pointer_that_cannot_be_followed() {
    for (source, code, problem) in [
        ("mov sp,r0; bx lr", "4685 4770", Problem::UnknownStackPointer),
        (
            "movw r4,#64; ldr r4,[r0]; sub.w sp,sp,r4",
            "f240 0440 6804 ebad 0d04",
            Problem::UnknownStackPointer,
        ),
        (
            "movw r4,#16; cbz r0,1f; movw r4,#32; 1: sub.w sp,sp,r4",
            "f240 0410 b108 f240 0420 ebad 0d04",
            Problem::UnknownStackPointer,
        ),
        ("cmp r0,#0; it eq; subeq sp,#8; bx lr", "2800 bf08 b082 4770", Problem::UnknownStackPointer),
        ("1: sub sp,#8; b 1b", "b082 e7fd", Problem::Unequal(0, 8)),
        ("sub sp,#8; bx lr", "b082 4770", Problem::Unbalanced(8)),
        ("pop {r4}; push {r4}; bx lr", "bc10 b410 4770", Problem::Unbalanced(-4)),
        ("msr msp,r0", "f380 8808 4770", Problem::StackSwitch),
        ("msr control,r0", "f380 8814 4770", Problem::StackSwitch),
        ("svc 0", "df00 4770", Problem::SupervisorCall),
    ] {
        assert_eq!(problems(&[code]), [problem], "{source}");
    }
}

#[test]
fn forgets_what_a_call_may_change() {
    // push {lr}; movw r3,#64; bl f1; sub.w sp,sp,r3
    assert_eq!(problems(&["b500 f240 0340 f000 f87b ebad 0d03", LEAF]), [Problem::UnknownStackPointer]);
}

#[test]
fn refuses_an_instruction_that_it_does_not_know() {
    // mcr p15,0,r0,c7,c5,0
    assert_eq!(problems(&["ee07 0f15 4770"]), [Problem::UnknownInstruction(0xee07, 0x0f15)]);
}

#[test]
fn survives_any_instruction() {
    for first in 0..=u16::MAX {
        for second in [0, 0x4770, 0x8d04, 0xad0d, 0xf0ff, 0xffff] {
            analyse(&[&format!("{first:04x} {second:04x} 4770")]);
        }
    }
}
