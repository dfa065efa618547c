// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The policy's knobs that can be turned while it runs, by the device `control`.

use crate::engine::Engine;
use crate::layout::TARGETS;
use crate::machine::Machine;

/// Names, by number.
const NAMES: [&str; 9] = [
    "max_targets",
    "cold_calls",
    "cold_share",
    "window_first",
    "relearn_share",
    "learning_share",
    "patch_interval_us",
    "retry_ms",
    "patience_ms",
];

impl<M: Machine> Engine<M> {
    fn place(&mut self, knob: u32) -> Option<&mut u32> {
        let config = &mut self.policy.config;
        Some(match knob {
            1 => &mut config.cold_calls,
            2 => &mut config.cold_share,
            3 => &mut config.window_first,
            4 => &mut config.relearn_share,
            5 => &mut config.learning_share,
            6 => &mut config.patch_interval_us,
            7 => &mut config.retry_ms,
            8 => &mut self.patience_ms,
            _ => return None,
        })
    }

    /// Sets knob number `knob`; false if there is no such knob or the value makes no sense.
    pub fn set(&mut self, knob: u32, value: u32) -> bool {
        if knob == 0 {
            let fits = value as usize <= TARGETS;
            self.policy.config.max_targets = if fits { value as u8 } else { self.policy.config.max_targets };
            return fits;
        }
        match self.place(knob) {
            Some(place) if value > 0 => {
                *place = value;
                true
            }
            _ => false,
        }
    }

    /// Name and value of knob number `knob`.
    pub fn knob(&mut self, knob: u32) -> Option<(&'static str, u32)> {
        let name = *NAMES.get(knob as usize)?;
        let value = match knob {
            0 => u32::from(self.policy.config.max_targets),
            _ => *self.place(knob)?,
        };
        Some((name, value))
    }
}
