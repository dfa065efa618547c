//! One word per opcode: what follows it and how control goes on.
//!
//! The tables are built at compile time from ranges of opcodes, in the order of the manual's opcode maps
//! (Intel SDM vol. 2, appendix A). Later entries replace earlier ones, so each table starts from the map's
//! default and goes on to its exceptions.

/// What kind of immediate follows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Immediate {
    /// What a word says that says nothing.
    #[expect(dead_code, reason = "its number is that of an empty word")]
    None,
    Byte,
    TwoBytes,
    ThreeBytes,
    /// Four bytes, two with an operand-size prefix.
    Operand,
    /// The same, or eight with REX.W (`mov $imm, %reg` alone).
    Wide,
    /// Four bytes whatever the prefixes.
    Rel32,
    /// The absolute address of `mov %al, moffs` and its kin.
    Offset,
    /// As `Byte` or `Operand`, but only for `test` among the instructions of f6 and f7.
    TestByte,
    TestOperand,
    /// Two bytes, where a prefix makes vmread one of SSE4a's instructions.
    Sse4a,
}

/// Lengths of immediates, by kind, in three columns: as they are, with an operand-size prefix that counts,
/// with REX.W.
pub(super) static IMMEDIATE_LEN: [[u8; 3]; 16] = [
    [0, 0, 0],
    [1, 1, 1],
    [2, 2, 2],
    [3, 3, 3],
    [4, 2, 4],
    [4, 2, 8],
    [4, 4, 4],
    [8, 8, 8],
    [1, 1, 1],
    [4, 2, 4],
    [0, 2, 0],
    [0; 3],
    [0; 3],
    [0; 3],
    [0; 3],
    [0; 3],
];

/// What follows a ModRM byte: in the low bits the number of bytes, SIB included, and [`NO_BASE`].
pub(super) static MODRM: [u8; 256] = modrm();

/// Set where a SIB byte with base 5 has four bytes of displacement behind it.
pub(super) const NO_BASE: u8 = 0x80;

const fn modrm() -> [u8; 256] {
    let mut t = [0; 256];
    let mut i = 0;
    while i < 0xc0 {
        let sib = if i & 7 == 4 { 1 } else { 0 };
        t[i] = match i >> 6 {
            0 if i & 7 == 5 => 4,
            0 if sib == 1 => 1 | NO_BASE,
            0 => 0,
            1 => 1 + sib,
            _ => 4 + sib,
        };
        i += 1;
    }
    t
}

/// What kind of instruction it is, as far as control flow goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Plain,
    /// A prefix, or the first byte of a longer opcode.
    Escape,
    Invalid,
    Jump,
    Cond,
    Call,
    Return,
    Trap,
    /// ModRM's `reg` field decides.
    Refined,
}

impl Class {
    const ALL: [Class; 16] = [
        Class::Plain,
        Class::Escape,
        Class::Invalid,
        Class::Jump,
        Class::Cond,
        Class::Call,
        Class::Return,
        Class::Trap,
        Class::Refined,
        // Never stored.
        Class::Invalid,
        Class::Invalid,
        Class::Invalid,
        Class::Invalid,
        Class::Invalid,
        Class::Invalid,
        Class::Invalid,
    ];
}

/// The word of one opcode: bit 0 ModRM, bits 1 to 4 [`Immediate`], 5 to 8 [`Class`], 9 a ModRM that never
/// names memory.
#[derive(Clone, Copy)]
pub(super) struct Attributes(u16);

impl Attributes {
    const HAS_MODRM: u16 = 1;
    const REGISTERS_ONLY: u16 = 1 << 9;

    const fn new() -> Attributes {
        Attributes(0)
    }

    const fn modrm(self) -> Attributes {
        Attributes(self.0 | Attributes::HAS_MODRM)
    }

    const fn registers_only(self) -> Attributes {
        Attributes(self.0 | Attributes::REGISTERS_ONLY)
    }

    const fn with(self, immediate: Immediate) -> Attributes {
        Attributes(self.0 & !(15 << 1) | (immediate as u16) << 1)
    }

    const fn class_of(self, class: Class) -> Attributes {
        Attributes(self.0 & !(15 << 5) | (class as u16) << 5)
    }

    /// 1 where a ModRM byte follows, else 0.
    #[inline]
    pub(super) const fn has_modrm(self) -> u8 {
        (self.0 & Attributes::HAS_MODRM) as u8
    }

    #[inline]
    pub(super) const fn is_registers_only(self) -> bool {
        self.0 & Attributes::REGISTERS_ONLY != 0
    }

    /// The row of [`IMMEDIATE_LEN`].
    #[inline]
    pub(super) const fn immediate(self) -> usize {
        (self.0 >> 1 & 15) as usize
    }

    #[inline]
    pub(super) const fn class(self) -> Class {
        Class::ALL[(self.0 >> 5 & 15) as usize]
    }
}

type Table = [Attributes; 256];

const BARE: Attributes = Attributes::new();
const MODRM_ONLY: Attributes = BARE.modrm();
const MODRM_BYTE: Attributes = MODRM_ONLY.with(Immediate::Byte);
const BYTE: Attributes = BARE.with(Immediate::Byte);
const OPERAND: Attributes = BARE.with(Immediate::Operand);
const INVALID: Attributes = BARE.class_of(Class::Invalid);
const TRAP: Attributes = BARE.class_of(Class::Trap);
const RETURN: Attributes = BARE.class_of(Class::Return);
const REFINED: Attributes = MODRM_ONLY.class_of(Class::Refined);

/// Gives opcodes `first..=last` the same word.
const fn fill(table: &mut Table, first: u8, last: u8, attributes: Attributes) {
    let mut i = first as usize;
    while i <= last as usize {
        table[i] = attributes;
        i += 1;
    }
}

pub(super) static ONE_BYTE: Table = one_byte();
pub(super) static TWO_BYTE: Table = two_byte();

const fn one_byte() -> Table {
    let mut t = [INVALID; 256];
    arithmetic(&mut t);
    stack_and_moves(&mut t);
    branches(&mut t);
    groups(&mut t);
    escapes(&mut t);
    t
}

/// Prefixes and what begins a longer opcode (8f too: `pop`, unless it is XOP).
const fn escapes(t: &mut Table) {
    const ESCAPE: Attributes = BARE.class_of(Class::Escape);
    let mut op = 0x26;
    while op <= 0x3e {
        fill(t, op, op, ESCAPE); // segments
        op += 8;
    }
    fill(t, 0x0f, 0x0f, ESCAPE);
    fill(t, 0x40, 0x4f, ESCAPE); // REX
    fill(t, 0x62, 0x62, ESCAPE); // EVEX
    fill(t, 0x64, 0x67, ESCAPE); // segments, sizes
    fill(t, 0xc4, 0xc5, ESCAPE); // VEX
    fill(t, 0xf0, 0xf0, ESCAPE); // lock
    fill(t, 0xf2, 0xf3, ESCAPE); // repeat
}

/// 00 to 3f: eight operations in six forms each.
const fn arithmetic(t: &mut Table) {
    let mut op = 0u8;
    while op < 0x40 {
        fill(t, op, op + 3, MODRM_ONLY);
        fill(t, op + 4, op + 4, BYTE);
        fill(t, op + 5, op + 5, OPERAND);
        op += 8;
    }
    fill(t, 0x69, 0x69, MODRM_ONLY.with(Immediate::Operand)); // imul
    fill(t, 0x6b, 0x6b, MODRM_BYTE);
    fill(t, 0x84, 0x85, MODRM_ONLY); // test
    fill(t, 0xa8, 0xa8, BYTE);
    fill(t, 0xa9, 0xa9, OPERAND);
}

const fn stack_and_moves(t: &mut Table) {
    fill(t, 0x50, 0x5f, BARE); // push, pop
    fill(t, 0x63, 0x63, MODRM_ONLY); // movslq
    fill(t, 0x68, 0x68, OPERAND); // push
    fill(t, 0x6a, 0x6a, BYTE);
    fill(t, 0x6c, 0x6f, BARE); // ins, outs
    fill(t, 0x86, 0x8f, MODRM_ONLY); // xchg, mov, lea, pop
    fill(t, 0x90, 0x99, BARE); // nop, xchg, cltq, cqto
    fill(t, 0x9b, 0x9f, BARE); // fwait, pushf, popf, sahf, lahf
    fill(t, 0xa0, 0xa3, BARE.with(Immediate::Offset));
    fill(t, 0xa4, 0xa7, BARE); // movs, cmps
    fill(t, 0xaa, 0xaf, BARE); // stos, lods, scas
    fill(t, 0xb0, 0xb7, BYTE); // mov
    fill(t, 0xb8, 0xbf, BARE.with(Immediate::Wide));
    fill(t, 0xc6, 0xc6, MODRM_BYTE);
    fill(t, 0xc8, 0xc8, BARE.with(Immediate::ThreeBytes)); // enter
    fill(t, 0xc9, 0xc9, BARE); // leave
    fill(t, 0xd7, 0xd7, BARE); // xlat
    fill(t, 0xe4, 0xe7, BYTE); // in, out
    fill(t, 0xec, 0xef, BARE);
    fill(t, 0xf5, 0xf5, BARE); // cmc
    fill(t, 0xf8, 0xfd, BARE); // clc stc cli sti cld std
}

const fn branches(t: &mut Table) {
    let cond = BYTE.class_of(Class::Cond);
    fill(t, 0x70, 0x7f, cond);
    fill(t, 0xe0, 0xe3, cond); // loopne, loope, loop, jrcxz
    fill(t, 0xc2, 0xc2, RETURN.with(Immediate::TwoBytes));
    fill(t, 0xc3, 0xc3, RETURN);
    fill(t, 0xca, 0xca, RETURN.with(Immediate::TwoBytes)); // lret
    fill(t, 0xcb, 0xcb, RETURN);
    fill(t, 0xcc, 0xcc, TRAP); // int3
    fill(t, 0xcd, 0xcd, BYTE); // int
    fill(t, 0xcf, 0xcf, RETURN); // iret
    fill(t, 0xe8, 0xe8, BARE.with(Immediate::Rel32).class_of(Class::Call));
    fill(t, 0xe9, 0xe9, BARE.with(Immediate::Rel32).class_of(Class::Jump));
    fill(t, 0xeb, 0xeb, BYTE.class_of(Class::Jump));
    fill(t, 0xf1, 0xf1, TRAP); // int1
    fill(t, 0xf4, 0xf4, TRAP); // hlt
}

const fn groups(t: &mut Table) {
    fill(t, 0x80, 0x80, MODRM_BYTE);
    fill(t, 0x81, 0x81, MODRM_ONLY.with(Immediate::Operand));
    fill(t, 0x83, 0x83, MODRM_BYTE);
    fill(t, 0xc0, 0xc1, MODRM_BYTE);
    fill(t, 0xc7, 0xc7, REFINED.with(Immediate::Operand));
    fill(t, 0xd0, 0xd3, MODRM_ONLY);
    fill(t, 0xd8, 0xdf, MODRM_ONLY); // x87
    fill(t, 0xf6, 0xf6, MODRM_ONLY.with(Immediate::TestByte));
    fill(t, 0xf7, 0xf7, MODRM_ONLY.with(Immediate::TestOperand));
    fill(t, 0xfe, 0xfe, MODRM_ONLY);
    fill(t, 0xff, 0xff, REFINED);
}

/// The `0f` map. Most of it has a ModRM and nothing else.
const fn two_byte() -> Table {
    let mut t = [MODRM_ONLY; 256];
    system(&mut t);
    fill(&mut t, 0x70, 0x73, MODRM_BYTE); // shuffles and shifts
    fill(&mut t, 0x77, 0x77, BARE); // emms
    fill(&mut t, 0x78, 0x78, MODRM_ONLY.with(Immediate::Sse4a)); // vmread, or extrq and insertq
    fill(&mut t, 0x80, 0x8f, BARE.with(Immediate::Rel32).class_of(Class::Cond));
    fill(&mut t, 0xa0, 0xa2, BARE); // push and pop fs, cpuid
    fill(&mut t, 0xa4, 0xa4, MODRM_BYTE); // shld
    fill(&mut t, 0xa8, 0xa9, BARE); // push and pop gs
    fill(&mut t, 0xaa, 0xaa, RETURN); // rsm
    fill(&mut t, 0xac, 0xac, MODRM_BYTE); // shrd
    fill(&mut t, 0xb9, 0xb9, MODRM_ONLY.class_of(Class::Trap)); // ud1
    fill(&mut t, 0xba, 0xba, MODRM_BYTE); // bt
    fill(&mut t, 0xc2, 0xc2, MODRM_BYTE); // cmpps
    fill(&mut t, 0xc4, 0xc6, MODRM_BYTE); // pinsrw, pextrw, shufps
    fill(&mut t, 0xc8, 0xcf, BARE); // bswap
    fill(&mut t, 0xff, 0xff, MODRM_ONLY.class_of(Class::Trap)); // ud0
    t
}

const fn system(t: &mut Table) {
    fill(t, 0x01, 0x01, REFINED);
    fill(t, 0x04, 0x0f, INVALID);
    fill(t, 0x05, 0x06, BARE); // syscall, clts
    fill(t, 0x07, 0x07, RETURN); // sysret
    fill(t, 0x08, 0x09, BARE); // invd, wbinvd
    fill(t, 0x0b, 0x0b, TRAP); // ud2
    fill(t, 0x0d, 0x0d, MODRM_ONLY); // prefetch
    fill(t, 0x0e, 0x0e, BARE); // femms
    fill(t, 0x0f, 0x0f, MODRM_BYTE); // 3DNow!
    fill(t, 0x20, 0x23, MODRM_ONLY.registers_only()); // control and debug registers
    fill(t, 0x24, 0x27, INVALID);
    fill(t, 0x30, 0x33, BARE); // wrmsr rdtsc rdmsr rdpmc
    fill(t, 0x34, 0x34, BARE); // sysenter
    fill(t, 0x35, 0x35, RETURN); // sysexit
    fill(t, 0x36, 0x3f, INVALID);
    fill(t, 0x37, 0x37, BARE); // getsec
}

/// The legacy `0f 38` map, all of it.
pub(super) const LONG: Attributes = MODRM_ONLY;
/// The legacy `0f 3a` map.
pub(super) const LONG_BYTE: Attributes = MODRM_BYTE;

/// The VEX and EVEX maps. Map 4 (APX) is not known here.
#[inline]
pub(super) const fn vector(map: u8, evex: bool, opcode: u8) -> Attributes {
    match (map, opcode) {
        (1, 0x77) if !evex => BARE, // vzeroupper
        (1, 0x70..=0x73 | 0xc2 | 0xc4..=0xc6) => MODRM_BYTE,
        (1 | 2, _) => MODRM_ONLY,
        (3, _) => MODRM_BYTE,
        (5 | 6, _) if evex => MODRM_ONLY,
        _ => INVALID,
    }
}

/// AMD's XOP maps.
#[inline]
pub(super) const fn xop(map: u8) -> Attributes {
    match map {
        8 => MODRM_BYTE,
        9 => MODRM_ONLY,
        10 => MODRM_ONLY.with(Immediate::Operand),
        _ => INVALID,
    }
}
