//! The encoder against iced-x86: every instruction, every register, decoded back.

use iced_x86::{Code as Op, Decoder, DecoderOptions, Instruction, Register};
use relpoline_core::arch::x86_64::Reg;
use relpoline_core::arch::x86_64::encode::{Code, CodeError, Cond, INT3, gate_target, gate_word, rel32};

const AT: u64 = 0x5555_0000_1000;
const NEAR: u64 = AT + 0x1234_5678;
const BACK: u64 = AT - 0x1234_5678;

const REGISTERS: [Register; 16] = [
    Register::RAX,
    Register::RCX,
    Register::RDX,
    Register::RBX,
    Register::RSP,
    Register::RBP,
    Register::RSI,
    Register::RDI,
    Register::R8,
    Register::R9,
    Register::R10,
    Register::R11,
    Register::R12,
    Register::R13,
    Register::R14,
    Register::R15,
];

fn encode(write: impl FnOnce(&mut Code<'_>)) -> Vec<u8> {
    let mut buf = [0x90u8; 64];
    let mut code = Code::new(&mut buf, AT);
    write(&mut code);
    let len = code.finish().expect("fits");
    buf[..len].to_vec()
}

fn decode(bytes: &[u8]) -> Vec<Instruction> {
    Decoder::with_ip(64, bytes, AT, DecoderOptions::NONE).into_iter().collect()
}

/// The one instruction that `write` produces.
fn one(write: impl FnOnce(&mut Code<'_>)) -> Instruction {
    let bytes = encode(write);
    let all = decode(&bytes);
    assert_eq!(all.len(), 1, "{bytes:02x?}");
    assert_eq!(all[0].len(), bytes.len());
    all[0]
}

fn each_register(check: impl Fn(Reg, Register)) {
    for (n, name) in REGISTERS.into_iter().enumerate() {
        let reg = Reg::new(n as u8).unwrap();
        assert_eq!(format!("{name:?}").to_lowercase(), reg.name());
        check(reg, name);
    }
}

#[test]
fn compares() {
    each_register(|reg, name| {
        for imm in [0, 1, -1, i32::MAX, i32::MIN] {
            let i = one(|c| c.cmp_imm32(reg, imm));
            assert_eq!((i.code(), i.op0_register()), (Op::Cmp_rm64_imm32, name));
            assert_eq!(i.immediate(1), i64::from(imm).cast_unsigned());
            assert_eq!(i.len(), 7);
        }
        for address in [NEAR, BACK] {
            let i = one(|c| c.cmp_mem(reg, address));
            assert_eq!((i.code(), i.op0_register()), (Op::Cmp_r64_rm64, name));
            assert_eq!(i.ip_rel_memory_address(), address);
            assert_eq!(i.len(), 7);
        }
    });
}

#[test]
fn constants_are_found_where_they_are_bound() {
    each_register(|reg, name| {
        let bytes = encode(|c| {
            let constant = c.cmp_constant(reg);
            c.align(16);
            c.bind_constant(constant, 0x1122_3344_5566_7788);
        });
        let i = decode(&bytes)[0];
        assert_eq!((i.code(), i.op0_register()), (Op::Cmp_r64_rm64, name));
        let offset = (i.ip_rel_memory_address() - AT) as usize;
        assert_eq!(offset, 16);
        assert_eq!(bytes[offset..], 0x1122_3344_5566_7788u64.to_le_bytes());
        assert!(bytes[7..16].iter().all(|&b| b == INT3));
    });
}

#[test]
fn jumps() {
    for target in [NEAR, BACK, AT] {
        let bytes = encode(|c| c.jmp(target));
        assert_eq!(bytes.len(), 6);
        assert_eq!(bytes[5], INT3);
        let i = decode(&bytes)[0];
        assert_eq!((i.code(), i.near_branch_target()), (Op::Jmp_rel32_64, target));
        let conditional = [
            (Cond::E, Op::Je_rel32_64),
            (Cond::A, Op::Ja_rel32_64),
            (Cond::B, Op::Jb_rel32_64),
            (Cond::Le, Op::Jle_rel32_64),
        ];
        for (cond, op) in conditional {
            let i = one(|c| c.jcc(cond, target));
            assert_eq!((i.code(), i.near_branch_target(), i.len()), (op, target, 6));
        }
    }
}

#[test]
fn forward_jumps_reach_their_label() {
    let bytes = encode(|c| {
        let label = c.jcc_forward(Cond::A);
        c.jmp(NEAR);
        c.bind(label);
        c.push(Reg::RAX);
    });
    let all = decode(&bytes);
    assert_eq!(all[0].near_branch_target(), AT + 12);
    assert_eq!(all.last().unwrap().ip(), AT + 12);
}

#[test]
fn counters() {
    for address in [NEAR, BACK] {
        let i = one(|c| c.dec_u32(address));
        assert_eq!((i.code(), i.ip_rel_memory_address()), (Op::Dec_rm32, address));
        let i = one(|c| c.inc_u64(address));
        assert_eq!((i.code(), i.ip_rel_memory_address()), (Op::Inc_rm64, address));
    }
}

#[test]
fn moves_and_stack() {
    each_register(|reg, name| {
        let i = one(|c| c.push(reg));
        assert_eq!((i.code(), i.op0_register()), (Op::Push_r64, name));
        let i = one(|c| c.pop(reg));
        assert_eq!((i.code(), i.op0_register()), (Op::Pop_r64, name));
        let i = one(|c| c.load_u64(reg, NEAR));
        assert_eq!((i.code(), i.op0_register(), i.ip_rel_memory_address()), (Op::Mov_r64_rm64, name, NEAR));
        let i = one(|c| c.store_u64(BACK, reg));
        assert_eq!((i.code(), i.op1_register(), i.ip_rel_memory_address()), (Op::Mov_rm64_r64, name, BACK));
        let i = one(|c| c.mov_imm64(reg, u64::MAX - 5));
        assert_eq!((i.code(), i.op0_register(), i.immediate(1)), (Op::Mov_r64_imm64, name, u64::MAX - 5));
    });
    let i = one(|c| c.call(BACK));
    assert_eq!((i.code(), i.near_branch_target()), (Op::Call_rel32_64, BACK));
}

#[test]
fn gates() {
    for target in [NEAR, BACK, AT, AT + 8] {
        let word = gate_word(AT, target).unwrap();
        let bytes = word.to_le_bytes();
        let i = decode(&bytes)[0];
        assert_eq!((i.code(), i.near_branch_target()), (Op::Jmp_rel32_64, target));
        assert_eq!(bytes[5..], [INT3; 3]);
        assert_eq!(gate_target(AT, word), Some(target));
    }
    assert_eq!(gate_word(AT, AT + (1 << 32)), None);
    assert_eq!(gate_target(AT, 0xcccc_cccc_cccc_cccc), None);
}

#[test]
fn reach_ends_at_two_gibibytes() {
    assert_eq!(rel32(AT, AT + 0x7fff_ffff), Some(i32::MAX));
    assert_eq!(rel32(AT, AT + 0x8000_0000), None);
    assert_eq!(rel32(AT, AT - 0x8000_0000), Some(i32::MIN));
    assert_eq!(rel32(AT, AT - 0x8000_0001), None);
    assert_eq!(rel32(4, u64::MAX), Some(-5), "around the top of the address space");
}

#[test]
fn errors_stick() {
    let mut buf = [0u8; 8];
    let mut code = Code::new(&mut buf, AT);
    code.mov_imm64(Reg::RAX, 1);
    code.push(Reg::RAX);
    assert_eq!(code.finish(), Err(CodeError::Overflow));
    let mut code = Code::new(&mut buf, AT);
    code.jmp(AT + (1 << 40));
    code.mov_imm64(Reg::RAX, 1);
    assert_eq!(code.finish(), Err(CodeError::OutOfReach), "the first error counts");
}
