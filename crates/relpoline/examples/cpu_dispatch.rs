//! CPU dispatch as memchr does it, with a static call in place of an atomic function pointer.
//!
//! The portable version is what the program starts with; the first thing `main` does is to exchange it for
//! the best one that the processor has. A library would do the same in its own initialisation, or on first
//! use, from any thread.

use relpoline::static_call;

static_call! {
    /// How many bytes of `haystack` equal `needle`.
    pub fn count(haystack: &[u8], needle: u8) -> usize = count_portable;
}

fn count_portable(haystack: &[u8], needle: u8) -> usize {
    haystack.iter().filter(|&&b| b == needle).count()
}

#[cfg(target_arch = "x86_64")]
fn count_avx2(haystack: &[u8], needle: u8) -> usize {
    #[target_feature(enable = "avx2")]
    fn vectorised(haystack: &[u8], needle: u8) -> usize {
        use std::arch::x86_64::{
            __m256i, _mm256_cmpeq_epi8, _mm256_loadu_si256, _mm256_movemask_epi8, _mm256_set1_epi8,
        };
        let wanted = _mm256_set1_epi8(needle.cast_signed());
        let mut chunks = haystack.chunks_exact(32);
        let in_chunks: u32 = chunks
            .by_ref()
            .map(|chunk| {
                // SAFETY: the chunk has 32 bytes, and the load needs no alignment.
                let bytes = unsafe { _mm256_loadu_si256(chunk.as_ptr().cast::<__m256i>()) };
                _mm256_movemask_epi8(_mm256_cmpeq_epi8(bytes, wanted)).count_ones()
            })
            .sum();
        in_chunks as usize + count_portable(chunks.remainder(), needle)
    }
    // SAFETY: this function becomes the target only where AVX2 was detected.
    unsafe { vectorised(haystack, needle) }
}

fn choose() -> Result<&'static str, relpoline::UpdateError> {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        count::update(count_avx2)?;
        return Ok("avx2");
    }
    Ok("portable")
}

#[inline(never)]
fn newlines(text: &[u8]) -> usize {
    count(text, b'\n')
}

fn main() -> Result<(), relpoline::UpdateError> {
    let text = include_bytes!("cpu_dispatch.rs");
    let before = newlines(text);
    let version = choose()?;
    let after = newlines(text);
    assert_eq!(before, after);
    println!("{after} lines, counted by the {version} version ({:?})", count::state().form());
    Ok(())
}
