//! x86-64: registers, the instructions that are patched or generated, and retpoline thunk shapes.

pub mod decode;
pub mod encode;
pub mod keep;
pub mod thunk;

/// A general-purpose register by its hardware number (0 = rax, 1 = rcx, 2 = rdx, 3 = rbx, 4 = rsp,
/// 5 = rbp, 6 = rsi, 7 = rdi, 8..=15 = r8..=r15).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Reg(u8);

impl Reg {
    /// The register rax.
    pub const RAX: Reg = Reg(0);
    /// The register rcx.
    pub const RCX: Reg = Reg(1);
    /// The register rdx.
    pub const RDX: Reg = Reg(2);
    /// The frame pointer, where there is one.
    pub const RBP: Reg = Reg(5);
    /// r11, the register of LLVM's retpolines.
    pub const R11: Reg = Reg(11);

    /// The register with hardware number `n`, or `None` when `n` > 15.
    #[must_use]
    pub const fn new(n: u8) -> Option<Reg> {
        if n < 16 { Some(Reg(n)) } else { None }
    }

    /// The hardware number, 0 to 15.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }

    /// The low three bits, as ModRM and opcode fields hold them.
    #[must_use]
    pub const fn low3(self) -> u8 {
        self.0 & 7
    }

    /// Whether the register needs a REX extension bit.
    #[must_use]
    pub const fn is_extended(self) -> bool {
        self.0 >= 8
    }

    /// The assembler's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        const NAMES: [&str; 16] = [
            "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
            "r15",
        ];
        NAMES[(self.0 & 15) as usize]
    }
}
