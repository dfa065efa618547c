//! The assembly that macros leave in the user's functions.
//!
//! Every site notes itself in a section of its module: its address and its owner. And every object file that
//! has a site carries the same small registrar, in a COMDAT group, so that a module has one: it is called by
//! the loader before the module's other code, and again when the module goes. Nobody has to call anything.
//!
//! The names carry the crate's version: two versions of this crate in one program do not see each other's
//! sites. Two copies of the same version, in an executable and in a library, have a registrar each, since
//! its symbols are hidden.

/// The section of sites, and of symbols derived from it: a C identifier, for the linker's `__start_` symbols.
#[doc(hidden)]
#[macro_export]
macro_rules! __sites {
    () => {
        "relpoline_sites_0_1_0"
    };
}

/// Notes the instruction at label 2 down. Operands: `owner`, `register_sites`, `unregister`.
#[doc(hidden)]
#[macro_export]
macro_rules! __site {
    ($kind:literal) => {
        ::core::concat!(
            ".pushsection ",
            $crate::__sites!(),
            ",\"awR\",@progbits\n",
            ".balign 8\n",
            ".quad 2b\n",
            ".quad {owner} + ",
            $kind,
            "\n",
            ".popsection\n",
            $crate::__registrar!(),
        )
    };
}

/// The module's registrar, unless this object file has it already.
#[doc(hidden)]
#[macro_export]
macro_rules! __registrar {
    () => {
        ::core::concat!(
            ".ifndef register_",
            $crate::__sites!(),
            "\n",
            ".weak __start_",
            $crate::__sites!(),
            "\n.hidden __start_",
            $crate::__sites!(),
            "\n",
            ".weak __stop_",
            $crate::__sites!(),
            "\n.hidden __stop_",
            $crate::__sites!(),
            "\n",
            ".pushsection .text.register_",
            $crate::__sites!(),
            ",\"axG\",@progbits,register_",
            $crate::__sites!(),
            ",comdat\n",
            ".weak register_",
            $crate::__sites!(),
            "\n.hidden register_",
            $crate::__sites!(),
            "\n",
            ".type register_",
            $crate::__sites!(),
            ",@function\n",
            "register_",
            $crate::__sites!(),
            ":\n",
            "endbr64\n",
            "lea rdi, [rip + __start_",
            $crate::__sites!(),
            "]\n",
            "lea rsi, [rip + __stop_",
            $crate::__sites!(),
            "]\n",
            "jmp {register_sites}@PLT\n",
            "unregister_",
            $crate::__sites!(),
            ":\n",
            "endbr64\n",
            "lea rdi, [rip + __start_",
            $crate::__sites!(),
            "]\n",
            "jmp {unregister}@PLT\n",
            ".popsection\n",
            ".pushsection .init_array,\"awG\",@init_array,register_",
            $crate::__sites!(),
            ",comdat\n",
            ".balign 8\n.quad register_",
            $crate::__sites!(),
            "\n",
            ".popsection\n",
            ".pushsection .fini_array,\"awG\",@fini_array,register_",
            $crate::__sites!(),
            ",comdat\n",
            ".balign 8\n.quad unregister_",
            $crate::__sites!(),
            "\n",
            ".popsection\n",
            ".endif\n",
        )
    };
}

/// A branch on a key: `$kind` is the site's kind, `$ahead` what falling through means.
#[doc(hidden)]
#[macro_export]
macro_rules! __branch {
    ($key:path, $kind:literal, $ahead:literal) => {{
        // Nothing of it is left, without optimisation either.
        const { $crate::__private::is_a_key(&$key) };
        'site: {
            // SAFETY: the instruction changes flags alone, in either form, or jumps to the label; only the
            // library changes it, one byte at a time (relpoline, module `patched::keys`).
            #[allow(unused_unsafe)]
            unsafe {
                ::core::arch::asm!(
                    "2: jmp {slow}",
                    $crate::__site!($kind),
                    slow = label {
                        // SAFETY: it is a key, or does not compile.
                        break 'site unsafe { $crate::__private::read(&$key) };
                    },
                    owner = sym $key,
                    register_sites = sym $crate::__private::register,
                    unregister = sym $crate::__private::unregister,
                    options(readonly, nostack),
                );
            }
            $ahead
        }
    }};
}

/// Whether a call's own branch falls through here: a site like an unlikely key's, that belongs to the call.
/// As shipped it jumps, and the gate decides.
#[doc(hidden)]
#[macro_export]
macro_rules! __falls_through_here {
    ($state:ident, $kind:literal) => {
        'site: {
            // SAFETY: as for `__branch`.
            #[allow(unused_unsafe)]
            unsafe {
                ::core::arch::asm!(
                    "2: jmp {gate}",
                    $crate::__site!($kind),
                    gate = label {
                        break 'site false;
                    },
                    owner = sym $state,
                    register_sites = sym $crate::__private::register,
                    unregister = sym $crate::__private::unregister,
                    options(readonly, nostack),
                );
            }
            true
        }
    };
}

/// Whether a call of the inline form goes to its first target.
#[doc(hidden)]
#[macro_export]
macro_rules! __first_target_here {
    ($state:ident) => {
        $crate::__falls_through_here!($state, "4")
    };
}

/// Whether a dynamic call is left alone here.
#[cfg(not(feature = "retpoline"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __plain_here {
    ($state:ident) => {
        $crate::__falls_through_here!($state, "6")
    };
}

/// Never: what is compiled here as a plain call is no retpoline.
#[cfg(feature = "retpoline")]
#[doc(hidden)]
#[macro_export]
macro_rules! __plain_here {
    ($state:ident) => {
        false
    };
}

/// Marks that a static call's gate is called soon, without an instruction: see `patched/callers.rs`.
#[doc(hidden)]
#[macro_export]
macro_rules! __caller_here {
    ($state:ident) => {
        // SAFETY: there is no instruction.
        #[allow(unused_unsafe)]
        unsafe {
            ::core::arch::asm!(
                "2:",
                $crate::__site!("5"),
                owner = sym $state,
                register_sites = sym $crate::__private::register,
                unregister = sym $crate::__private::unregister,
                options(nomem, nostack, preserves_flags),
            );
        }
    };
}

/// A jump through the register with this number: `jmp *%register`, with a REX prefix even where it needs
/// none.
#[cfg(not(feature = "retpoline"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __jump_through {
    ($register:literal) => {
        ::core::concat!(".byte 0x40 + (", $register, " >> 3), 0xff, 0xe0 + (", $register, " & 7)\nint3")
    };
}

/// A jump through the register with this number: a retpoline, of the shape that gcc gives it.
#[cfg(feature = "retpoline")]
#[doc(hidden)]
#[macro_export]
macro_rules! __jump_through {
    ($register:literal) => {
        ::core::concat!(
            "call 5f\n4: pause\nlfence\njmp 4b\n",
            "5: .byte 0x48 + ((",
            $register,
            " >> 3) << 2), 0x89, 0x04 + ((",
            $register,
            " & 7) << 3), 0x24\nret\nint3"
        )
    };
}

/// The gate of a static call, as the address to call: see `patched/calls.rs` for what its slots are.
///
/// Slot 0's `jmp` skips 40 bytes: the eight slots behind it.
#[doc(hidden)]
#[macro_export]
macro_rules! __call_gate {
    ($state:ident, $target:path) => {{
        // SAFETY: called only through pointers of the call's own type, which the code passes on unchanged but
        // for r11 and the flags, which no calling convention passes anything in.
        #[unsafe(naked)]
        unsafe extern "C-unwind" fn gate() {
            ::core::arch::naked_asm!(
                ".cfi_startproc",
                "2:",
                ".byte 0xe9\n.long 3f - (. + 4)",
                "jmp {target}@PLT",
                ".rept 7\n.byte 0xe9\n.long 3f - (. + 4)\n.endr",
                "3:",
                "mov r11, qword ptr [rip + {owner}@GOTPCREL]",
                "mov r11, qword ptr [r11]",
                $crate::__jump_through!("11"),
                // At the end it aligns the function's section, and so its beginning: a cache line per gate.
                ".balign 64, 0xcc",
                ".cfi_endproc",
                $crate::__site!("2"),
                target = sym $target,
                owner = sym $state,
                register_sites = sym $crate::__private::register,
                unregister = sym $crate::__private::unregister,
            )
        }
        gate as *const ()
    }};
}

/// The gate of a dynamic call, as the address to call. As shipped its `test` falls through to the jump
/// through the target's register; once it is armed the `test` is a `jmp`: see `patched/learn`.
#[doc(hidden)]
#[macro_export]
macro_rules! __table_gate {
    ($state:ident, $register:ident) => {{
        // SAFETY: called only with a function of the table's type in that register, to which it jumps.
        #[unsafe(naked)]
        unsafe extern "C-unwind" fn gate() {
            ::core::arch::naked_asm!(
                ".cfi_startproc",
                "2:",
                ".byte 0xa9\n.long 0",
                $crate::__jump_through!("{register}"),
                // Never executed: it names the call, so that linkers that fold equal functions leave this one
                // alone.
                "mov r11, qword ptr [rip + {owner}@GOTPCREL]",
                // Aligns the beginning too: see the gate of a static call.
                ".balign 32, 0xcc",
                ".cfi_endproc",
                $crate::__site!("3"),
                register = const $register,
                owner = sym $state,
                register_sites = sym $crate::__private::register,
                unregister = sym $crate::__private::unregister,
            )
        }
        gate as *const ()
    }};
}

/// The function that callers see: it calls the gate, with the target as one more argument; or the target,
/// while the call is left alone.
#[doc(hidden)]
#[macro_export]
macro_rules! __dynamic_call_function {
    ([$(#[$meta:meta])* $vis:vis] [$($unsafe:tt)?] [$($abi:tt)*] $name:ident($($arg:ident: $ty:ty),*) [$($ret:tt)*]) => {
        $(#[$meta])*
        #[inline(always)]
        $vis $($unsafe)? fn $name(target: $($unsafe)? $($abi)* fn($($ty),*) $($ret)* $(, $arg: $ty)*) $($ret)* {
            let (_, gate, plain) = $name::__branch::<true>();
            if plain {
                // SAFETY: what an unsafe signature asks for was promised by the caller.
                #[allow(unused_unsafe)]
                return unsafe { target($($arg),*) };
            }
            let gate: $($unsafe)? $($abi)* fn($($ty,)* *const ()) $($ret)* =
                // SAFETY: the gate jumps to `target`, which finds its own arguments where it expects them:
                // the one behind them is in a register that it does not read.
                unsafe { ::core::mem::transmute(gate) };
            // SAFETY: what an unsafe signature asks for was promised by the caller.
            #[allow(unused_unsafe)]
            unsafe { gate($($arg,)* target as *const ()) }
        }
    };
}

#[cfg(test)]
mod tests {
    /// Two versions in one program must not see each other's sites.
    #[test]
    fn the_section_carries_the_version() {
        let version = env!("CARGO_PKG_VERSION").replace(['.', '-'], "_");
        assert_eq!(crate::__sites!(), format!("relpoline_sites_{version}"));
        assert!(include_str!("../c/macros.h").contains(&format!("\"{}\"", crate::__sites!())));
    }
}
