//! A hook in the allocator that mostly nobody has set.
//!
//! A profiler wants to see every allocation, for the minute in which somebody looks. An atomic pointer costs
//! a load and a branch in each of them for ever; an inline static call to nothing costs one instruction.

use relpoline::{UpdateError, static_call};
use relpoline_uses::{compare, looped};
use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

static_call! {
    /// Called with the size of each allocation. It must not allocate.
    inline fn allocated(size: usize) = null;
}
static HOOK: AtomicPtr<()> = AtomicPtr::new(std::ptr::null_mut());
static BYTES: AtomicU64 = AtomicU64::new(0);

fn add(size: usize) {
    BYTES.fetch_add(size as u64, Ordering::Relaxed);
}

/// The system's allocator, and a call of the hook.
struct Hooked;
// SAFETY: passes everything on; the hook allocates nothing.
unsafe impl GlobalAlloc for Hooked {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        allocated(layout.size());
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(block, layout) }
    }
}
#[global_allocator]
static ALLOCATOR: Hooked = Hooked;

#[inline(always)]
fn by_pointer(size: usize) {
    let hook = HOOK.load(Ordering::Relaxed);
    if !hook.is_null() {
        // SAFETY: only functions of this type are stored.
        let hook: fn(usize) = unsafe { std::mem::transmute(hook) };
        hook(size);
    }
}

/// Takes a block of 48 bytes and gives it back.
#[inline(always)]
fn block(x: u64, hook: impl Fn(usize)) -> u64 {
    let layout = Layout::new::<[u64; 6]>();
    hook(layout.size());
    // SAFETY: the layout has a size; the block goes back by the same layout.
    unsafe {
        let block = black_box(System.alloc(layout));
        System.dealloc(block, layout);
    }
    x + 1
}

fn main() -> Result<(), UpdateError> {
    drop(black_box(vec![0u8; 100]));
    assert_eq!(BYTES.load(Ordering::Relaxed), 0);
    allocated::update(add)?;
    drop(black_box(vec![0u8; 100]));
    allocated::reset()?;
    let bytes = BYTES.load(Ordering::Relaxed);
    assert!(bytes >= 100, "{bytes}");
    drop(black_box(vec![0u8; 100]));
    assert_eq!(BYTES.load(Ordering::Relaxed), bytes);
    compare(
        "a block of 48 bytes, taken and given back",
        &mut [
            ("no hook", looped!(x => block(x, |_| ()))),
            ("a static call, nobody listens", looped!(x => block(x, allocated))),
            ("an atomic pointer, nobody listens", looped!(x => block(x, by_pointer))),
        ],
    );
    allocated::update(add)?;
    HOOK.store(add as *mut (), Ordering::Relaxed);
    compare(
        "the same, somebody listens",
        &mut [
            ("no hook", looped!(x => block(x, |_| ()))),
            ("a static call", looped!(x => block(x, allocated))),
            ("an atomic pointer", looped!(x => block(x, by_pointer))),
        ],
    );
    Ok(())
}
