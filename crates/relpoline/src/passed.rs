//! Which register the function pointer of a dynamic call travels in.
//!
//! A dynamic call passes its target as one more argument behind the others, which the callee does not know
//! of and does not read. On x86-64 the integer arguments take rdi, rsi, rdx, rcx, r8, r9 in this order
//! (System V ABI, 3.2.3), so it lies in the register whose number is the count of registers the arguments
//! before it take. That count is known for the types below; others say it by implementing the traits.

/// An argument of a dynamic call.
///
/// # Safety
/// [`INTEGERS`](Passed::INTEGERS) must be the number of integer registers that the type takes as an
/// argument, in every position, both in the C and in the Rust calling convention; and it must be passed in
/// registers, not in memory.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be an argument of a dynamic call",
    note = "pass it by reference, or implement `relpoline::Passed` if you know how many integer registers it takes"
)]
pub unsafe trait Passed {
    /// How many integer registers it takes.
    const INTEGERS: usize;
}

/// A result of a dynamic call.
///
/// # Safety
/// [`HIDDEN`](Returned::HIDDEN) must be 1 exactly if the caller passes a hidden pointer to where the result
/// is to be written, both in the C and in the Rust calling convention.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the result of a dynamic call",
    note = "let the callee write it: add a parameter `result: &mut {Self}`; or implement `relpoline::Returned` if you know how \
            it is returned"
)]
pub unsafe trait Returned {
    /// 1 for a result that is returned in memory, 0 for one in registers.
    const HIDDEN: usize;
}

macro_rules! scalars {
    ($integers:literal: $($ty:ty)+) => { $(
        // SAFETY: System V ABI, 3.2.3: class INTEGER one eightbyte each, class SSE for floating point.
        unsafe impl Passed for $ty {
            const INTEGERS: usize = $integers;
        }
        // SAFETY: scalars are returned in rax or xmm0, 128-bit integers in rax and rdx.
        unsafe impl Returned for $ty {
            const HIDDEN: usize = 0;
        }
    )+ };
}
scalars!(1: u8 i8 u16 i16 u32 i32 u64 i64 usize isize bool char);
scalars!(0: f32 f64);
scalars!(2: u128 i128);

// SAFETY: nothing is returned.
unsafe impl Returned for () {
    const HIDDEN: usize = 0;
}

macro_rules! pointers {
    ($($ty:ty)+) => { $(
        // SAFETY: one word, or two for a slice or trait object, each of class INTEGER.
        unsafe impl<T: ?Sized> Passed for $ty {
            const INTEGERS: usize = size_of::<$ty>() / size_of::<usize>();
        }
        // SAFETY: one or two words are returned in rax and rdx.
        unsafe impl<T: ?Sized> Returned for $ty {
            const HIDDEN: usize = 0;
        }
    )+ };
}
pointers!(&T &mut T *const T *mut T Option<&T> Option<&mut T> Box<T> core::ptr::NonNull<T>);

/// Hardware number of the register behind `integers` integer arguments.
///
/// # Panics
/// At compile time, when there is none.
#[must_use]
pub const fn register_behind(integers: usize) -> u8 {
    const RDI_TO_R9: [u8; 6] = [7, 6, 2, 1, 8, 9];
    assert!(
        integers < RDI_TO_R9.len(),
        "a dynamic call needs a free integer register: pass at most five words of integers and pointers \
         (a result that is returned in memory takes one of them)"
    );
    RDI_TO_R9[integers]
}
