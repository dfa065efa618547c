//! The packet of a run that has a context of the kernel's: where it begins and ends, and how far either may
//! move.
//!
//! What a program reads in its context is a copy of this; the original lies where programs cannot write.
//!
//! ```text
//! | context, 192 | flow keys, 64 | head room, 256 | packet … | tail room … |
//!                                     lowest        data   end            highest
//! ```
//! A program may touch everything from its context to the packet's end.

use crate::packet::{ContextKind, skb, xdp};
use crate::redirect::Redirect;
use crate::region::Region;
use crate::run::{Run, Window};

/// See the module's text. Everything is an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame {
    /// What the context is.
    pub kind: ContextKind,
    /// Where it is.
    pub context: u64,
    /// The least address that packet or metadata may begin at.
    pub lowest: u64,
    /// The greatest that the packet may end at.
    pub highest: u64,
    /// Where the metadata begins that lie before the packet.
    pub meta: u64,
    /// The packet's first byte.
    pub data: u64,
    /// One past its last.
    pub end: u64,
}

impl Frame {
    /// Bytes of the packet.
    pub fn len(&self) -> u64 {
        self.end - self.data
    }

    /// Writes the context's fields that say where things are.
    ///
    /// # Safety
    /// There must be a context of this kind, which nobody else uses meanwhile.
    pub unsafe fn describe(&self) {
        let field = |offset: usize, value: u64| {
            // SAFETY: inside the context; contexts begin at multiples of 8, and the fields at multiples of 4.
            unsafe { ((self.context + offset as u64) as *mut u32).write_volatile(value as u32) };
        };
        match self.kind {
            ContextKind::Xdp => {
                field(xdp::DATA, self.data);
                field(xdp::DATA_END, self.end);
                field(xdp::DATA_META, self.meta);
            }
            ContextKind::Skb => {
                field(skb::LEN, self.len());
                field(skb::WIRE_LEN, self.len());
                field(skb::DATA, self.data);
                field(skb::DATA_END, self.end);
                field(skb::DATA_META, self.meta);
            }
        }
    }
}

/// What a run leaves behind, besides its result.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct After {
    /// The packet.
    pub frame: Frame,
    /// Where it is to go.
    pub redirect: Option<Redirect>,
}

impl Run {
    /// Moves the packet: context, packet and bounds say so from now on.
    pub fn reframe(&mut self, frame: Frame) {
        self.frame = Some(frame);
        (self.data, self.data_end) = (frame.data, frame.end);
        self.packet = Region { start: frame.data, len: frame.len(), writable: true };
        let window = Window::new(frame.context, frame.end - frame.context);
        // The second windows may be of the packet that was.
        self.windows = [window, window, Window::default(), Window::default()];
        // SAFETY: the run's own frame, of the memory that it was given.
        unsafe { frame.describe() };
    }
}
