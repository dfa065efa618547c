//! Which version of a function suits this processor: by a static call, and by what is usual.
//!
//! The function counts bytes in 16 bytes of text, so that the way to it is a good part of the whole.

use relpoline::{UpdateError, static_call};
use relpoline_uses::{compare, looped};
use std::hint::black_box;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

type Count = fn(&[u8; 16], u8) -> u64;

fn portable(text: &[u8; 16], wanted: u8) -> u64 {
    text.iter().filter(|&&byte| byte == wanted).count() as u64
}

#[cfg(target_arch = "x86_64")]
fn best(text: &[u8; 16], wanted: u8) -> u64 {
    use std::arch::x86_64::{_mm_cmpeq_epi8, _mm_loadu_si128, _mm_movemask_epi8, _mm_set1_epi8};
    // SAFETY: 16 bytes, read without asking for alignment; every x86-64 processor has SSE2.
    let equal = unsafe { _mm_cmpeq_epi8(_mm_loadu_si128(text.as_ptr().cast()), _mm_set1_epi8(wanted.cast_signed())) };
    // SAFETY: SSE2, as above.
    u64::from(unsafe { _mm_movemask_epi8(equal) }.count_ones())
}
#[cfg(not(target_arch = "x86_64"))]
use portable as best;

static_call! {
    /// Out of line: any version costs the same.
    fn count(text: &[u8; 16], wanted: u8) -> u64 = portable;
    /// The first version is called without any detour.
    inline fn count_first(text: &[u8; 16], wanted: u8) -> u64 = best;
}

static ONCE: OnceLock<Count> = OnceLock::new();
fn by_once(text: &[u8; 16], wanted: u8) -> u64 {
    ONCE.get_or_init(|| best)(text, wanted)
}

static POINTER: AtomicPtr<()> = AtomicPtr::new(portable as *mut ());
fn by_pointer(text: &[u8; 16], wanted: u8) -> u64 {
    // SAFETY: only functions of this type are stored.
    let count: Count = unsafe { std::mem::transmute(POINTER.load(Ordering::Relaxed)) };
    count(text, wanted)
}

fn by_asking(text: &[u8; 16], wanted: u8) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        return black_box(best as Count)(text, wanted);
    }
    black_box(portable as Count)(text, wanted)
}

fn main() -> Result<(), UpdateError> {
    let text = b"one two three f ";
    assert_eq!((count(text, b' '), portable(text, b' ')), (4, 4));
    count::update(best)?;
    POINTER.store(best as *mut (), Ordering::Relaxed);
    assert_eq!([count(text, b' '), count_first(text, b' '), by_once(text, b' '), by_pointer(text, b' ')], [4; 4]);
    macro_rules! counted {
        ($count:path) => {
            looped!(x => x.wrapping_add($count(black_box(text), x as u8)))
        };
    }
    compare(
        "count bytes in 16, the version chosen",
        &mut [
            (
                "direct call",
                looped!(x => { #[inline(never)] fn direct(t: &[u8; 16], w: u8) -> u64 { best(t, w) } x.wrapping_add(direct(black_box(text), x as u8)) }),
            ),
            ("by `static_call!`, updated", counted!(count)),
            ("by `static_call!`, `inline`, first", counted!(count_first)),
            ("by `AtomicPtr`", counted!(by_pointer)),
            ("by `OnceLock`", counted!(by_once)),
            ("by asking each time", counted!(by_asking)),
        ],
    );
    Ok(())
}
