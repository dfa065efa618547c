//! A key with 100 sites on 100 pages.

use relpoline::unlikely;

/// A function with one of the sites.
pub type StaticSite = fn() -> u32;
relpoline::static_key!(pub static KEY: bool = false);

/// Nearly a page of code, with a site.
#[inline(never)]
pub fn site<const N: u32>() -> u32 {
    // SAFETY: jumps over what it reserves.
    unsafe { std::arch::asm!("jmp 2f", ".skip 4090, 0xcc", "2:", options(nomem, nostack)) };
    if unlikely!(KEY) { N } else { 0 }
}

macro_rules! sites {
    ($($a:literal)*) => { [$(
        site::<{ $a * 10 }>, site::<{ $a * 10 + 1 }>, site::<{ $a * 10 + 2 }>, site::<{ $a * 10 + 3 }>,
        site::<{ $a * 10 + 4 }>, site::<{ $a * 10 + 5 }>, site::<{ $a * 10 + 6 }>, site::<{ $a * 10 + 7 }>,
        site::<{ $a * 10 + 8 }>, site::<{ $a * 10 + 9 }>,
    )*] };
}
pub const SITES: [StaticSite; 100] = sites!(0 1 2 3 4 5 6 7 8 9);
