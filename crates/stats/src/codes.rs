//! The small numbers in the records. They are stored as integers and never transmuted: an unknown number
//! reads as `None` here and as "unknown" in a report, so a newer engine does not break an older tool.
//!
//! The `reason` of a site or an object is the number of `relpoline_core::policy::Reason`; its wording lives
//! there. A [`Refusal`] says why a whole *program* goes without the engine.

/// Declares an enumeration with stable numbers, a wording for each, and the way back from the number.
macro_rules! codes {
    ($(#[$meta:meta])* pub enum $name:ident { $($(#[$vmeta:meta])* $variant:ident = $number:literal => $text:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        pub enum $name { $($(#[$vmeta])* $variant = $number,)* }

        impl $name {
            /// The code for a stored number, or `None` for one this version does not know.
            #[must_use]
            pub const fn from_number(number: u8) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)* _ => None }
            }

            /// Its wording in reports.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.write_str(self.text())
            }
        }
    };
}

codes! {
    /// What a site's instruction is.
    pub enum Kind {
        /// `call thunk`.
        Call = 1 => "call",
        /// `jmp thunk`: a tail call, a computed goto or a switch. 3 was a goto, as long as the two were told
        /// apart.
        Jump = 2 => "jump",
        /// `jcc thunk`: a conditional tail call.
        Cond = 4 => "cond",
    }
}

codes! {
    /// Where a site is on its way. Zero is an unused record.
    pub enum State {
        /// Left alone: its text was not touched. The reason says why.
        Refused = 1 => "refused",
        /// Recording its calls, to be judged.
        Learning = 2 => "learning",
        /// Behind its gate with a tree of direct jumps.
        Promoted = 4 => "promoted",
        /// The same, and the site itself jumps to the tree (one-byte link).
        Linked = 5 => "linked",
        /// Judged, and better off with its retpoline.
        Retpolined = 6 => "retpolined",
        /// Promotion is switched off in this process; the site has its retpoline.
        Disabled = 7 => "disabled",
        /// Its object was unloaded.
        Gone = 8 => "gone",
        /// Re-pointed to its gate, not called often enough to be learned.
        Cold = 9 => "cold",
    }
}

impl Kind {
    /// Whether what stands between such a site and its target must change no flag. At calls they are dead by
    /// the ABI; at a jump nobody can know.
    #[must_use]
    pub const fn keeps_flags(self) -> bool {
        !matches!(self, Self::Call)
    }
}

impl State {
    /// Whether calls of the site take direct jumps now.
    #[must_use]
    pub const fn is_promoted(self) -> bool {
        matches!(self, Self::Promoted | Self::Linked)
    }
}

codes! {
    /// Why a program runs without the engine, or why the engine in it stays idle.
    /// Worded to follow "PROG runs without promotion: ".
    pub enum Refusal {
        /// No program interpreter, so nobody would load the engine.
        Static = 1 => "it is statically linked",
        /// A dynamic loader that is not glibc's (musl).
        OtherLoader = 2 => "its dynamic loader is not glibc's",
        /// A 32-bit (or x32) program.
        OtherClass = 3 => "it is not a 64-bit program",
        /// Another processor.
        OtherMachine = 4 => "it is not an x86-64 program",
        /// Set-user-id or set-group-id: the loader ignores preloads given by path.
        SetId = 5 => "it is set-user-id or set-group-id",
        /// File capabilities: the same.
        Capabilities = 6 => "it carries file capabilities",
        /// The engine's file cannot be read from where the program will run.
        Unreachable = 7 => "the engine's file cannot be read by it",
        /// User-mode shadow stacks are on.
        ShadowStack = 8 => "it runs with a shadow stack",
        /// The kernel lacks something the engine needs (sealed memfd, MADV_WIPEONFORK).
        Kernel = 9 => "the kernel lacks what the engine needs",
        /// Not an ELF file, and no script either.
        NotElf = 10 => "it is not an ELF program",
        /// Promotion was switched off by the environment or by the program itself.
        Off = 11 => "promotion is switched off",
        /// No site was found: the program has no retpolines.
        NoSites = 12 => "it has no retpolines",
        /// The program entered a sandbox and `off_in_sandbox` was given.
        Sandbox = 13 => "it entered a sandbox",
        /// No address space for an arena near the program.
        NoArena = 14 => "there is no room for an arena within reach",
        /// The program's text could not be re-pointed.
        TextLocked = 15 => "its text cannot be changed",
        /// Threads were running before the engine could start.
        Threads = 16 => "threads were already running",
        /// It may be executed but not read, so nobody can tell what it is.
        Unreadable = 17 => "its file cannot be read",
        /// Linked with AddressSanitizer's library, which ends a program in which another library comes first.
        AddressSanitizer = 18 => "it is linked with AddressSanitizer, whose library must come first",
    }
}

/// Bits of [`crate::Header::flags`].
pub mod flag {
    /// Trees count their hits, so `hits` is exact.
    pub const COUNT: u32 = 1;
    /// Nothing is patched.
    pub const DRY_RUN: u32 = 1 << 1;
    /// Sites stay behind their gates.
    pub const NO_LINK: u32 = 1 << 2;
    /// The process reached its end in an orderly way, and the figures are final.
    pub const ENDED: u32 = 1 << 3;
    /// No syscalls any more: a seccomp filter is in place.
    pub const SANDBOXED: u32 = 1 << 4;
    /// The process was forked from one that had the engine already.
    pub const FORKED: u32 = 1 << 5;
    /// `relpoline detach`: the program's text is its own again, and the engine asleep.
    pub const ASLEEP: u32 = 1 << 6;
}
