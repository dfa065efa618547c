// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Recording stubs that are lent to sites, and the windows into which their records go.
//!
//! A recording stub's number is part of its code and never changes, so a thread that was preempted in one
//! writes a record of that number at any later time: perhaps for another site by then. Such a record is one
//! of a window of hundreds, and a target that is seen once is never believed.

use relpoline_core::trace::entry;

use crate::layout::{RECORDERS, RECORDERS_PER_REGISTER, WINDOWS, recorder};

/// Records of the longest window.
pub const LENGTH: usize = 1024;
/// Memory of all windows, in records.
pub const MEMORY: usize = WINDOWS * LENGTH;

const NOBODY: u32 = u32::MAX;
const NO_WINDOW: u8 = u8::MAX;

const _: () = assert!(WINDOWS <= NO_WINDOW as usize);

#[derive(Clone, Copy, Debug)]
struct Lent {
    site: u32,
    window: u8,
    /// Records in the window, and records until it is full.
    len: u16,
    wanted: u16,
}

const FREE: Lent = Lent { site: NOBODY, window: NO_WINDOW, len: 0, wanted: 0 };

/// All recording stubs and windows.
#[derive(Debug)]
pub struct Windows {
    lent: [Lent; RECORDERS],
    taken: [bool; WINDOWS],
    open: usize,
    memory: &'static mut [u64],
}

impl Windows {
    /// Without memory.
    #[must_use]
    pub const fn new() -> Windows {
        Windows { lent: [FREE; RECORDERS], taken: [false; WINDOWS], open: 0, memory: &mut [] }
    }

    /// Gives the windows their memory: [`MEMORY`] records.
    pub fn furnish(&mut self, memory: &'static mut [u64]) {
        self.memory = memory;
    }

    /// Whether nobody learns.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        self.open == 0
    }

    /// Sites that learn.
    #[must_use]
    pub const fn open_windows(&self) -> usize {
        self.open
    }

    /// Lends a recording stub for the register with number `reg` to `site`: which of the register's, or
    /// `None` when all of them, or all windows, are lent.
    pub fn open(&mut self, reg: u8, site: u32, wanted: u32) -> Option<usize> {
        let n = (0..RECORDERS_PER_REGISTER)
            .find(|&n| self.lent.get(recorder(reg, n)).is_some_and(|lent| lent.site == NOBODY))?;
        let window = self.taken.iter().position(|&taken| !taken)?;
        *self.taken.get_mut(window)? = true;
        let lent = self.lent.get_mut(recorder(reg, n))?;
        *lent = Lent { site, window: window as u8, len: 0, wanted: wanted.clamp(1, LENGTH as u32) as u16 };
        self.open += 1;
        Some(n)
    }

    /// Takes a stub back: how many records there were.
    pub fn close(&mut self, recorder: u16) -> u32 {
        let Some(lent) = self.lent.get_mut(usize::from(recorder)) else { return 0 };
        let Lent { site, window, len, .. } = core::mem::replace(lent, FREE);
        if site != NOBODY
            && let Some(taken) = self.taken.get_mut(usize::from(window))
        {
            *taken = false;
            self.open -= 1;
        }
        u32::from(len)
    }

    /// A window goes on until it holds `wanted` records.
    pub fn lengthen(&mut self, recorder: u16, wanted: u32) {
        if let Some(lent) = self.lent.get_mut(usize::from(recorder)) {
            lent.wanted = wanted.clamp(1, LENGTH as u32) as u16;
        }
    }

    /// Takes in a record by processor `cpu`.
    pub fn add(&mut self, record: u64, cpu: u32) {
        let Some(lent) = self.lent.get_mut((record >> 32) as usize) else { return };
        if lent.site == NOBODY || lent.len >= lent.wanted {
            return;
        }
        // Kernel text lies in the top two gigabytes: the sign gives back what the stub left out.
        let target = i64::from(record as u32 as i32) as u64;
        let at = usize::from(lent.window) * LENGTH + usize::from(lent.len);
        if let Some(slot) = self.memory.get_mut(at) {
            *slot = entry(target, cpu as u16);
            lent.len += 1;
        }
    }

    /// The first stub from `from` on whose window is full, and its site.
    #[must_use]
    pub fn full(&self, from: usize) -> Option<(usize, u32)> {
        if self.is_idle() {
            return None;
        }
        let rest = self.lent.get(from..)?;
        let at = rest.iter().position(|lent| lent.site != NOBODY && lent.len >= lent.wanted)?;
        Some((from + at, rest.get(at)?.site))
    }

    /// What was recorded through a stub, oldest first.
    #[must_use]
    pub fn records(&self, recorder: u16) -> &[u64] {
        let Some(lent) = self.lent.get(usize::from(recorder)) else { return &[] };
        let from = usize::from(lent.window) * LENGTH;
        self.memory.get(from..from + usize::from(lent.len)).unwrap_or_default()
    }
}

impl Default for Windows {
    fn default() -> Windows {
        Windows::new()
    }
}
