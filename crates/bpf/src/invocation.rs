//! What a run is given: input, packet, buffers, and how it is executed.

use crate::code::Body;
use crate::frame::After;
use crate::hits;
use crate::region::Region;
use crate::run::{BUFFERS, PATIENCE, Run, Window};
use std::cell::Cell;
use std::sync::Arc;

/// How a run is executed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Engine {
    /// As compiled code.
    #[default]
    Compiled,
    /// By the interpreter.
    Interpreter,
}

/// A run to be: what a program is given.
#[derive(Debug)]
pub struct Invocation<'a> {
    pub(crate) input: &'a mut [u8],
    packet: Option<Region>,
    pub(crate) after: Option<&'a mut After>,
    buffers: [Region; BUFFERS],
    used: usize,
    pub(crate) engine: Engine,
    pub(crate) clear_stack: bool,
}

impl<'a> Invocation<'a> {
    /// A run with `input` as r1, its length as r2, and as the packet.
    pub fn new(input: &'a mut [u8]) -> Self {
        let (packet, buffers) = (None, [Region::default(); BUFFERS]);
        Invocation { input, packet, after: None, buffers, used: 0, engine: Engine::default(), clear_stack: false }
    }

    /// Chooses how it is executed.
    #[must_use]
    pub fn engine(mut self, engine: Engine) -> Self {
        self.engine = engine;
        self
    }

    /// Lets the run touch `bytes` too, if there are at most three such buffers.
    #[must_use]
    pub fn buffer(mut self, bytes: &'a mut [u8]) -> Self {
        if let Some(place) = self.buffers.get_mut(self.used) {
            *place = Region { start: bytes.as_mut_ptr() as u64, len: bytes.len() as u64, writable: true };
            self.used += 1;
        }
        self
    }

    /// As [`Invocation::buffer`], and makes it the packet that helpers load from.
    #[must_use]
    pub fn packet(mut self, bytes: &'a mut [u8]) -> Self {
        self.packet = Some(Region { start: bytes.as_mut_ptr() as u64, len: bytes.len() as u64, writable: true });
        self.buffer(bytes)
    }

    /// Names a part of the input as the packet, and where the run is to leave what became of it.
    pub(crate) fn packet_within(mut self, packet: Region, after: &'a mut After) -> Self {
        self.packet = Some(packet);
        self.after = Some(after);
        self
    }

    /// Clears the stack first, so that nothing of earlier runs can be read there.
    #[must_use]
    pub fn clear_stack(mut self) -> Self {
        self.clear_stack = true;
        self
    }
}

/// The state in which a run of `body` begins. `stack` are its bounds; `len` bytes at `input` are its input.
#[inline]
pub(crate) fn new_run(body: &Body, invocation: &Invocation<'_>, stack: (u64, u64), input: u64, len: u64) -> Run {
    let window = Window::new(input, len);
    let frame = invocation.after.as_ref().map(|after| after.frame);
    let (mut contexts, mut data, mut data_end) = ([0; 2], 0, 0);
    if let Some(frame) = frame {
        contexts[frame.kind as usize] = frame.context;
        (data, data_end) = (frame.data, frame.end);
    }
    let budget = body.options.budget.map_or(i64::MAX, |b| i64::try_from(b).unwrap_or(i64::MAX));
    Run {
        windows: [window, window, Window::default(), Window::default()],
        native_stack: 0,
        stack_end: stack.1,
        budget: Cell::new(budget),
        failed: 0,
        instruction: 0,
        program: body.id,
        helper: 0,
        hits: hits::mine(),
        callee: 0,
        patience: PATIENCE,
        nested: 0,
        slot: crate::slot::known(),
        contexts,
        data,
        data_end,
        shared: Arc::as_ptr(&body.shared),
        stack_start: stack.0,
        buffers: invocation.buffers,
        packet: invocation.packet.unwrap_or(Region { start: input, len, writable: true }),
        frame,
        redirect: None,
        tunnel: None,
        ring: 0,
        kind: None,
    }
}
